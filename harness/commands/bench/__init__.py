"""`python -m harness bench`: measures the cost of one gradient for our methods, other libraries and plain loops."""
