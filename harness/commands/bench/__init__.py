"""`python -m harness bench`: what one gradient costs, for our methods, for peers and for plain loops, in one run."""
