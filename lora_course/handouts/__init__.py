"""A program that writes one page to hand out: a voice."""
