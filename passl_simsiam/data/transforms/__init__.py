"""Views of an image, in OpenCV on uint8 arrays [height, width, channels] in RGB order.

The published recipes are torchvision's transforms on Pillow images; each operation here follows those conventions, and
comments say where OpenCV's differ.
"""
