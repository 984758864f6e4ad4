"""TensorBoard: the epochs as scalars, the program as a graph, and what it makes of validation data.

Nothing here affects a training. Pictures use their own random streams and show only validation data, and the program is
left unchanged.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from pyro_vae.errors import uninstalled
from pyro_vae.experiment import build
from pyro_vae.experiment.run.evaluation_data import DataReader
from pyro_vae.experiment.train.program_graph import Node, nodes_of
from pyro_vae.experiment.train.training_session import Session
from pyro_vae.inference import Record
from pyro_vae.inference.averaging import holding
from pyro_vae.model.program import undisturbed
from pyro_vae.randomness import stream
from pyro_vae.report.draw.images import Key, can_show, labels_to_draw, tile

_PICTURES = 20  # in a training, apart from the last
_COLUMNS = 12
_ROWS = 4  # of reconstructions, below the data
_CODES = 2000  # most data whose codes are shown
_SMALLEST = 28  # pixels of a side, as far as a picture is enlarged


class Log:
    """A log that writes nothing."""

    def epoch(self, record: Record) -> None:
        """Takes the record of an epoch, after each of them."""

    def finish(self) -> None:
        """Ends the log, when the best state is in the program."""


@contextmanager
def log(session: Session, *, wanted: bool) -> Iterator[Log]:
    """Writes a training into the folder tensorboard/ of its run, or nothing if that is not wanted.

    Records of epochs that will be run again are dropped.

    Args:
        session: what is trained; its validation data are shown.
        wanted: whether to write anything.

    Raises:
        UsageError: TensorBoard is wanted and not installed.
    """
    if not wanted:
        yield Log()
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise uninstalled("`tensorboard=True`", "tensorboard") from error
    done = session.progress.epoch
    with SummaryWriter(str(session.run.path / "tensorboard"), purge_step=done + 1) as writer:
        board = Board(writer, session)
        if not done:
            board.graph()
        yield board


class Board(Log):
    """A log that writes what a person looks at while a program is trained.

    Args:
        writer: a `SummaryWriter`.
        session: what is trained.
    """

    def __init__(self, writer: Any, session: Session) -> None:
        config, data = session.run.config, session.data
        self.writer, self.config, self.vae, self.progress = writer, config, session.vae, session.progress
        self.reached = session.progress.epoch
        self.valid = DataReader(config, data.valid, data.num_classes, _CODES).whole()
        self.num_classes = data.num_classes if config.conditional else 0
        self.key = Key(*build.shown_range(config, data.form, data.protocol), data.classes)
        self.trained_classes = data.trained_classes
        self.images = can_show(data.x_shape)

    def graph(self) -> None:
        """Writes the graph of model and guide: sites, the members that make them, and what these depend on."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.graph_pb2 import GraphDef

        x, y, _ = self.valid
        nodes = [_node_def(node) for node in nodes_of(self.vae, x[:1], None if y is None else y[:1])]
        self.writer.file_writer.add_event(Event(graph_def=GraphDef(node=nodes).SerializeToString()))

    def epoch(self, record: Record) -> None:
        """Writes scalars. Pictures come at intervals of epochs, so that every training has about the same number."""
        self.reached = record.epoch
        for name, value in record.to_dict().items():
            if name not in ("epoch", "best") and value is not None:
                self.writer.add_scalar(name, value, record.epoch)
        if record.epoch % max(1, self.config.epochs // _PICTURES) == 0:
            with holding(self.vae, self.progress.average):
                self._pictures("")

    def finish(self) -> None:
        """Writes pictures and codes of the state that is kept, the best epoch."""
        self._pictures("best/")
        self._codes()

    def _pictures(self, prefix: str) -> None:
        if self.images:
            for name, picture in (("reconstructions", self._reconstructions()), ("samples", self._samples())):
                self.writer.add_image(f"{prefix}{name}", picture, self.reached)

    def _reconstructions(self) -> Tensor:
        """Tiles data in the top row; below, means of p(x|z) at draws of z from q(z|x)."""
        x, y = self.valid.x[:_COLUMNS], None if self.valid.y is None else self.valid.y[:_COLUMNS]
        with stream(self.config.seed, "tensorboard", device=x.device):
            means = self.vae.reconstruct(x, y, num_samples=_ROWS)
        return self._tiled(torch.cat([x[None], means]).flatten(0, 1), len(x))

    def _samples(self) -> Tensor:
        """Tiles means of p(x|z) at draws of z from the prior, the same each time as long as the prior stays."""
        device = self.valid.x.device
        y = labels_to_draw(self.num_classes, device=device, trained=self.trained_classes)
        with stream(self.config.seed, "tensorboard", device=device):
            means = self.vae.generate(64 if y is None else len(y), y, mean=True)
        return self._tiled(means, 8)

    def _tiled(self, images: Tensor, columns: int) -> Tensor:
        """Tiles images as (C, H, W) in [0, 1], small ones enlarged by whole pixels; the gaps are grey."""
        larger = -(-_SMALLEST // min(images.shape[-2:]))
        picture = tile(interpolate(self.key.shades(images.float()), scale_factor=larger), columns).movedim(-1, 0)
        return torch.where(picture.isnan(), 0.5, picture.clamp(0, 1)).cpu()

    @torch.no_grad()
    def _codes(self) -> None:
        """Writes centres of q(z|x), those of z1 for two layers, with labels and thumbnails of the data."""
        x, y, labels = self.valid
        with undisturbed(self.vae):
            codes = self.vae.centre(x, y)
        self.writer.add_embedding(
            codes.cpu(),
            metadata=None if labels is None else [self._named(label) for label in labels.tolist()],
            label_img=self._thumbnails(x) if self.images else None,
            global_step=self.reached,
            tag="codes",
        )

    def _named(self, label: int) -> str:
        return self.key.classes[label] if self.key.classes else str(label)

    def _thumbnails(self, x: Tensor) -> Tensor:
        """Makes images (N, C, S, S): the projector's sprite is made of squares."""
        height, width = x.shape[-2:]
        side = max(height, width)
        return pad(self.key.shades(x.float()), (0, side - width, 0, side - height)).clamp(0, 1).cpu()


def _node_def(node: Node) -> Any:
    from tensorboard.compat.proto.attr_value_pb2 import AttrValue
    from tensorboard.compat.proto.node_def_pb2 import NodeDef
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in node.shape])
    shapes = {"_output_shapes": AttrValue(list=AttrValue.ListValue(shape=[shape]))} if node.shape else {}
    return NodeDef(name=node.name, op=node.kind, input=node.inputs, attr=shapes)
