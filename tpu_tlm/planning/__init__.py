"""The TPU compiler without a TPU: a training step lowered by TensorFlow, compiled by libtpu, and
read.
"""
