"""Mean teachers are better role models: Weight-averaged consistency targets improve semi-supervised deep learning
results. A. Tarvainen, H. Valpola. NeurIPS 2017, https://arxiv.org/abs/1703.01780. As segmentation of medical images has
it in SSL4MIS, https://github.com/HiLab-git/SSL4MIS.

A student f and a teacher f' that is the moving average of its weights say the same of an unlabelled image, though the
teacher sees it with noise:

    L  = L_labelled + lambda(t) mean (p_u - q_u)^2,     p_u = f(x_u),  q_u = f'(x_u + n)   (no gradient)
    n  = clamp(N(0, 0.1^2), -0.2, 0.2)
    w' <- d w' + (1 - d) w after each step,             d = min(1 - 1/(k + 1), 0.99) after k of them

Student and teacher share one geometry, and the labelled and unlabelled images of a batch one pass of the student. The
mean is over rows, classes and pixels. With ``weight=0 predicts=teacher`` this is averaging of weights alone, the
control that shows what the unlabelled scans bring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, final

from pydantic import Field
from torch import Tensor

from lemis.contracts import Backbone, Batch, Draw, Outcome
from lemis.layers.basic import precise
from lemis.parts.ramp import ramp_up
from lemis.parts.unlabelled import Followed, views
from lemis.settings import Probability

DIMS = (2, 3)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[C] SSL4MIS in 2D; its 3D code differs in the delay, which it has not."""

    weight: Annotated[float, Field(ge=0)] = 0.1  # lambda [C]; 0: fine-tuning on labels alone
    ramp: Probability = 1.0  # share of training over which lambda grows [C]: 30,000 steps of 30,000
    delay: Probability = 1 / 30  # share of training without consistency [C]: the first 1,000 steps; 0 in 3D
    noise: Annotated[float, Field(ge=0)] = 0.1  # standard deviation, in z-scored units; [C] on [0, 1]
    most_noise: Annotated[float, Field(ge=0)] = 0.2  # where it is cut off [C]
    decay: Probability = 0.99  # d [C]: half a teacher is 69 steps old
    teacher_mode: Literal["train", "eval"] = "train"  # while it labels [C]: it normalises by its own batch
    predicts: Literal["student", "teacher"] = "student"  # the network that is scored and kept [C]


@final
class Semi(Followed[Settings]):
    """A student and the teacher that follows it."""

    @property
    def predicts(self) -> Backbone:
        """The student, or its teacher."""
        return self.teacher if self.settings.predicts == "teacher" else self.labelled.backbone

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """The labelled loss, and how far student and teacher are from each other on the unlabelled rows."""
        how = self.settings
        if how.weight == 0:
            return self.labelled(batch, rng)
        known, label, unknown = views(self.labelled, batch, rng)
        of_known, p = self.labelled.logits(known, unknown)
        noise = (how.noise * rng.normal(*unknown.image.shape)).clamp(-how.most_noise, how.most_noise)
        q = self.told(unknown._replace(image=unknown.image + noise))
        weight = how.weight * ramp_up(self.progress, how.ramp) * (self.progress >= how.delay)
        return Outcome({**self.labelled.losses(of_known, label), "consistency": weight * consistency(p, q)})


def consistency(p: Tensor, q: Tensor) -> Tensor:
    """Mean squared distance of two softmaxes, of logits (B, K, *space) both."""
    return (precise(p).softmax(1) - precise(q).softmax(1)).square().mean()
