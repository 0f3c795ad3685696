"""Code where data should be: what others run of a file that they load. Here it stays text, and is told.

jinja         chat templates that are attacks
keras         layers and functions in the configuration of Keras' models
evaluated     texts of fairseq's and YOLO's metadata that are evaluated
kept          settings of trainers that Lightning, Hydra and MMEngine call or import
monai         Python in the configurations of MONAI's bundles
operators     operators of TensorFlow's that touch files
python        texts of Python as trees, whatever release of it evaluates them
targets       names that lead to Python's own library, or to what runs anything
yaml_escapes  letters of YAML that stand for others
yaml_scalars  what keys of YAML have as values, however these are written
"""
