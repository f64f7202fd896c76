"""What ``lemis`` offers from Python, for editors and type checkers; see ``__init__.py``."""

from lemis.prediction.loaded import load as load
from lemis.verbs.check import check as check
from lemis.verbs.check_method import check_method as check_method
from lemis.verbs.compare import compare as compare
from lemis.verbs.demo import demo as demo
from lemis.verbs.doctor import doctor as doctor
from lemis.verbs.evaluate import evaluate as evaluate
from lemis.verbs.export import export as export
from lemis.verbs.finetune import finetune as finetune
from lemis.verbs.fit import fit as fit
from lemis.verbs.import_weights import import_weights as import_weights
from lemis.verbs.list import list as list
from lemis.verbs.predict import predict as predict
from lemis.verbs.prepare import prepare as prepare
from lemis.verbs.pretrain import pretrain as pretrain
from lemis.verbs.report import report as report
from lemis.verbs.segment_one import segment_one as segment_one
from lemis.verbs.suggest import suggest as suggest

__version__: str
VERBS: tuple[str, ...]
OTHERS: dict[str, str]
