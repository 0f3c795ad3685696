"""The conformance suite: what every format has to do, ours and a plug-in's.

    # tests/test_my_format.py
    from ckptconv.testing import FormatTests
    from my_package import FORMAT

    class TestMyFormat(FormatTests):
        format = FORMAT

That is all: pytest collects the inherited tests. They ask of the format what its `Holds` promises.

    def reference(self, path: Path) -> Reading: …     another reader of the format, which ours has to agree with
    def samples(self) -> list[Sample]: …              other checkpoints than `samples_for(format.holds)`

pytest is not imported here. The suite writes only into ``tmp_path``.
"""

from ckptconv.testing.damage import Reading
from ckptconv.testing.samples import Plain, Sample, samples_for
from ckptconv.testing.suite import FormatTests

__all__ = ["FormatTests", "Plain", "Reading", "Sample", "samples_for"]
