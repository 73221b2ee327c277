"""The words everything else is said in: pure data, standard library only. No I/O, no clock, no web, no torch."""
