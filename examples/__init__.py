"""Typed command-line programs that use srwm, run from the checkout."""
