"""The conformance suite, which every format has to pass, ours and a plug-in's.

    # tests/test_my_format.py
    from ckptconv.testing import FormatTests
    from my_package import FORMAT

    class TestMyFormat(FormatTests):
        format = FORMAT

That is all: pytest collects the inherited tests. They check what the format's `Holds` promises. Two methods may be
overridden:

    def reference(self, path: Path) -> Reading: …     reads the file with another reader, which ours has to agree with
    def samples(self) -> list[Sample]: …              other checkpoints than `samples_for(format.holds)`

pytest is not imported here. The suite writes only into ``tmp_path``.

    suite            the tests
    samples          checkpoints to be written
    compare          how a checkpoint that was read differs from the one that was written
    damage           truncated files and flipped bits
    faults           making calls of the operating system fail
    worker           writing in another process
"""

from ckptconv.testing.damage import Reading
from ckptconv.testing.samples import Plain, Sample, samples_for
from ckptconv.testing.suite import FormatTests

__all__ = ["FormatTests", "Plain", "Reading", "Sample", "samples_for"]
