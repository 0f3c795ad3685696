"""The other files in a checkpoint's folder: code that loading the folder would unpickle, import or run, and files that
belong to the model.

    places       a folder with files to look at, on disk
    in_archive   …or inside an archive
    homes        which such folder a checkpoint is, or lies in
    members      the files around a checkpoint in an archive
    files        listing a folder and its subfolders; which files may hold a pickle
    hub          configurations that the Hugging Face hub's libraries read
    settings     YAML: SpeechBrain's hyperparameters, PyYAML's tags, targets for Hydra and others
    expressions  …and text in it that is evaluated, such as YOLOv5's layers
    named        JSON that names what LeRobot, MONAI, GluonTS, zarr and others call
    served       configurations for Triton and Gin
    lines        line numbers, for messages
    mlflow       MLflow's MLmodel
    belonging    which files and subfolders belong to a model besides its weights

Most modules have a `programs_in`, which yields a `Program` for each piece of code that some library would run. Nothing
here opens a checkpoint: `ckptconv.api.inspecting.beside` does, for each file that may hold a pickle.
"""
