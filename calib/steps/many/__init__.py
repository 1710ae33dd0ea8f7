"""Many runs of one command line: what each of them says, and what becomes of all."""
