"""What lies beside a checkpoint in its folder: what those who load the folder would unpickle, import or run of it.

    files       the files of a folder and of those in it; which of them may hold a pickle
    hub         configurations of the Hugging Face hub's libraries
    settings    SpeechBrain's hyperparameters and MLflow's MLmodel, which are YAML

Nothing here opens a checkpoint: `ckptconv.api.beside` does, of each file that may hold a pickle.
"""
