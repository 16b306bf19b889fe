"""Many samples: sandwich covariances of M-estimators, efficiency, and the projections of a misspecified class."""
