"""How the mini family is made: a small world of pictures, and the programs that teach FLUX models to draw it.

This room trains and judges; it serves nothing. The server never imports it.
Every program here resumes where it stopped and takes ``--minutes``:

    python -m training.all          everything, in order
    python -m training.evaluate     the scores of the weights in ``models/mini``
"""
