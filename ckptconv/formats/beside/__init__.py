"""What lies beside a checkpoint in its folder: what those who load the folder would unpickle, import or run of it.

    places       where they lie: in a folder of the disk
    in_archive   …or in an archive
    homes        which of these a checkpoint is, or lies in
    members      what an archive has around a checkpoint in it
    files        the files of a folder and of those in it; which of them may hold a pickle
    hub          configurations of the Hugging Face hub's libraries
    settings     YAML: SpeechBrain's hyperparameters, PyYAML's tags, targets of Hydra's and others
    expressions  …and texts in it that are evaluated, as YOLOv5's layers
    named        JSON that names what LeRobot, MONAI, GluonTS, zarr and others call
    served       configurations of Triton's and Gin's
    lines        where in a text something stands
    mlflow       MLflow's MLmodel
    belonging    which files of a model's folder, and folders in it, are the model's besides its weights

Nothing here opens a checkpoint: `ckptconv.api.inspecting.beside` does, of each file that may hold a pickle.
"""
