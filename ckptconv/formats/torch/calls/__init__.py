"""What a pickle's names and calls would do to whoever unpickles it, by exact name. Nothing is called to find out.

Begin with `harmless`, which every call that is not made here is asked about.

    harmless     calls that make a plain value and do nothing else
    makers       …by which scikit-learn, pandas, numpy and tensordict make objects of their own
    new_objects  classes of which an object is made and no more
    capable      names that can run anything, so that to mention one counts as a call
"""
