"""The tests, by the rooms of what they test; what several of them use is in `support`."""
