"""What a student learns from a teacher: the distilled risk and its error, gradient noise, the student's bound."""
