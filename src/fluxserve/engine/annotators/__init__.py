"""Annotators: from a picture to the map that a control network follows.

Canny's edges are computed; soft edges, depth and poses are seen by networks, each of a family's own. Those of the small
family and the field's large ones are run by the same code.
"""

from fluxserve.engine.annotators.annotators import Annotators

__all__ = ["Annotators"]
