"""Whether the engines give the values that the reference engine says, on real events at adversarial moments."""

from featurestore.verify.engines import ENGINES, Engine, Lab, Question, World, lab, register, world
from featurestore.verify.keeping import keep, must_be_verified
from featurestore.verify.records import Certificate, Counterexample, Outcome, Said, Tally, Unchecked, Verdict
from featurestore.verify.run import check, engines_named, verify, verify_view
from featurestore.verify.sampling import Sample, draw

__all__ = [
    "ENGINES",
    "Certificate",
    "Counterexample",
    "Engine",
    "Lab",
    "Outcome",
    "Question",
    "Said",
    "Sample",
    "Tally",
    "Unchecked",
    "Verdict",
    "World",
    "check",
    "draw",
    "engines_named",
    "keep",
    "lab",
    "must_be_verified",
    "register",
    "verify",
    "verify_view",
    "world",
]
