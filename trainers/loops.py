"""One epoch, a checkpoint of the trainer's own, a restart from it with everything made anew, and the second epoch."""

from pathlib import Path

import torch

from sparse_train import Topology
from trainers.problem import EPOCHS, Parts, loader, network, optimizer_of, parts, updater_of


def timm(kind: str, directory: Path) -> Parts:
    """As its train.py: `CheckpointSaver`, `resume_checkpoint`, `ModelEmaV3`."""
    from timm.models import resume_checkpoint
    from timm.utils import CheckpointSaver, ModelEmaV3

    made, average = None, None
    for epoch in range(EPOCHS):
        made = parts(kind)
        average = ModelEmaV3(made.model, decay=0.5)
        if epoch:
            resume_checkpoint(made.model, str(directory / "last.pth.tar"), made.optimizer, log_info=False)
        for batch in loader():
            made.optimizer.zero_grad()
            made.model(**batch)["loss"].backward()
            made.optimizer.step()
            average.update(made.model)
        saver = CheckpointSaver(made.model, made.optimizer, checkpoint_dir=str(directory), recovery_dir=str(directory))
        saver.save_checkpoint(epoch, metric=0.0)
    made.topology.apply_to(average.module)
    density = sum(int(average.module.get_parameter(name).count_nonzero()) for name in made.topology.masks)
    assert density <= sum(made.topology.counts.values()), "the average is as sparse as the model"
    return made


def accelerate(kind: str, directory: Path) -> Parts:
    """`Accelerator.prepare`, `backward`, `save_state`, `load_state`."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    made = None
    for epoch in range(EPOCHS):
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator, made = Accelerator(cpu=True), parts(kind)
        model, optimizer, batches = accelerator.prepare(made.model, made.optimizer, loader())
        if epoch:
            accelerator.load_state(directory)
        for batch in batches:
            optimizer.zero_grad()
            accelerator.backward(model(**batch)["loss"])
            optimizer.step()
        accelerator.save_state(directory)
    return made


def lightning(kind: str, directory: Path) -> Parts:
    """`Trainer.fit` with automatic optimization, which steps with a closure; `save_checkpoint`, `ckpt_path`."""
    import pytorch_lightning

    class Module(pytorch_lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = network()
            self.topology = Topology(self.model, 0.8)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            self.optimizer = optimizer_of(kind, self.model, self.topology)
            self.updater = updater_of(self.topology, self.optimizer).attach()
            return self.optimizer

        def training_step(self, batch: dict, _: int) -> torch.Tensor:
            return self.model(**batch)["loss"]

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    module, path = Module(), directory / "last.ckpt"
    for epoch in range(EPOCHS):
        module = Module()
        trainer = pytorch_lightning.Trainer(max_epochs=epoch + 1, enable_checkpointing=False, **quiet)
        trainer.fit(module, loader(), ckpt_path=path if epoch else None)
        trainer.save_checkpoint(path)
    return Parts(module.model, module.topology, module.optimizer, module.updater)


def transformers(kind: str, directory: Path) -> Parts:
    """Hugging Face's `Trainer`, `resume_from_checkpoint`; its clipping is off."""
    from transformers import Trainer, TrainingArguments

    class InOrder(Trainer):
        def get_train_dataloader(self) -> torch.utils.data.DataLoader:
            return loader()

    made = None
    for epoch in range(EPOCHS):
        made = parts(kind)
        constant = torch.optim.lr_scheduler.LambdaLR(made.optimizer, lambda _: 1.0)
        arguments = TrainingArguments(
            output_dir=str(directory),
            num_train_epochs=epoch + 1,
            save_strategy="epoch",
            logging_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            max_grad_norm=0.0,
        )
        trainer = InOrder(made.model, arguments, optimizers=(made.optimizer, constant))
        trainer.train(resume_from_checkpoint=bool(epoch))
    return made


LOOPS = {"timm": timm, "accelerate": accelerate, "pytorch_lightning": lightning, "transformers": transformers}
