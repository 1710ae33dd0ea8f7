"""Many runs as one: a row each, and a picture of what they cost."""
