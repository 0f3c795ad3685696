"""Code in places where only data is expected: what a library would run when it loads a file. Here it stays text, and is
reported as a `Program`.

jinja         chat templates that attack
keras         layers and functions in the configuration of Keras models
evaluated     strings in fairseq's and YOLO's metadata that are evaluated
monai         Python in the configurations of MONAI bundles
operators     TensorFlow operators that touch files
python        parsing Python text, whatever release evaluates it
targets       names that lead to Python's standard library, or to what can run anything
trainer_settings  settings in a checkpoint that Lightning, Hydra and MMEngine import or call
yaml_escapes  escape sequences in YAML
yaml_scalars  the values of given keys in YAML, however they are written
"""
