"""At how many training images does a Vision Transformer overtake a ResNet, and why?"""

__version__ = "0.1.0"
