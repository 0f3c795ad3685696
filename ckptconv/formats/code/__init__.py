"""Code where data should be: what others run of a file that they load. Here it stays text, and is told.

jinja         chat templates that are attacks
keras         layers and functions in the configuration of Keras' models
evaluated     texts of fairseq's and YOLO's metadata that are evaluated
yaml_escapes  letters of YAML that stand for others
yaml_scalars  what keys of YAML have as values, however these are written
"""
