"""Old names and what stands in their place; docs/migration.md shows them as tables.

In `GIN` an old name is a module, a class or a parameter. The longest one that a name begins with
applies: "runner.Run.epochs" is not listed, "runner.Run" is, so it is "run.Run.epochs" now.
"""

_OF_RUN = {
    "strategy": "settings.Execution.strategy",
    "seed": "settings.Execution.seed",
    "precision": "settings.Execution.precision",
    "jit_compile": "settings.Execution.jit_compile",
    "steps_per_execution": "settings.Execution.steps_per_execution",
    "log_every": "settings.Execution.log_every",
    "optimizer": "settings.Optimization.optimizer",
    "learning_rate": "settings.Optimization.learning_rate",
    "eval_data": "settings.Validation.data",
    "eval_batch": "settings.Validation.batch",
    "eval_every": "settings.Validation.every",
    "monitors": "settings.Validation.monitors",
    "cell": "settings.Validation.cell",
    "initial_checkpoint": "settings.Checkpointing.initial",
    "checkpoint_every": "settings.Checkpointing.every",
    "keep_checkpoints": "settings.Checkpointing.keep",
    "best_metric": "settings.Checkpointing.best_metric",
}
_OF_FROZEN_EVALUATION = {
    "learning_rates": "probe.Probe.learning_rates",
    "weight_decays": "probe.Probe.weight_decays",
    "epochs": "probe.Probe.epochs",
    "standardize": "probe.Probe.standardize",
    "k": "neighbors.Knn.k",
    "temperature": "neighbors.Knn.temperature",
}
_OF_CONTRASTIVE_LEARNER = {
    "temperature": "info_nce.InfoNCE.temperature",
    "block": "info_nce.InfoNCE.block",
    "objective": "contrastive.ContrastiveLearner.loss",
}

GIN: dict[str, str] = {
    "runner.Run": "run.Run",
    # Also for recipes in which only the module's name was replaced.
    **{f"runner.Run.{old}": new for old, new in _OF_RUN.items()},
    **{f"run.Run.{old}": new for old, new in _OF_RUN.items()},
    "pretrain.ContrastiveLearner": "contrastive.ContrastiveLearner",
    **{f"pretrain.ContrastiveLearner.{old}": new for old, new in _OF_CONTRASTIVE_LEARNER.items()},
    **{
        f"contrastive.ContrastiveLearner.{old}": new for old, new in _OF_CONTRASTIVE_LEARNER.items()
    },
    "photometric.Greyscale": "photometric.Grayscale",
    "photometric.Solarise": "photometric.Solarize",
    "comparison.Comparison": "frozen.FrozenEvaluation",
    **{f"comparison.Comparison.{old}": new for old, new in _OF_FROZEN_EVALUATION.items()},
    **{f"frozen.FrozenEvaluation.{old}": new for old, new in _OF_FROZEN_EVALUATION.items()},
    "monitor.KnnMonitor.k": "neighbors.Knn.k",
    "monitor.KnnMonitor.temperature": "neighbors.Knn.temperature",
}

# As recipes (`from cvrl_tf import runner`) and Python code import them.
MODULES: dict[str, str] = {
    "cvrl_tf.runner": "cvrl_tf.training.run",
    "cvrl_tf.callbacks": "cvrl_tf.training.callbacks",
    "cvrl_tf.run_folder": "cvrl_tf.training.run_folder",
    "cvrl_tf.tasks.pretrain": "cvrl_tf.tasks.pretext.contrastive",
    "cvrl_tf.garden": "cvrl_tf.models.model_garden",
    "cvrl_tf.saved_model": "cvrl_tf.inference.saved_model",
    "cvrl_tf.serving": "cvrl_tf.inference.server",
    "cvrl_tf.data.upload": "cvrl_tf.inference.upload",
    "cvrl_tf.evaluation.embedding": "cvrl_tf.inference.embedding",
    "cvrl_tf.evaluation.clip_features": "cvrl_tf.inference.feature_file",
    "cvrl_tf.evaluation.index": "cvrl_tf.inference.index",
    "cvrl_tf.evaluation.comparison": "cvrl_tf.evaluation.frozen",
    "cvrl_tf.evaluation.metrics": "cvrl_tf.measures.metrics",
    "cvrl_tf.evaluation.neighbours": "cvrl_tf.measures.neighbors",
    "cvrl_tf.evaluation.figures": "cvrl_tf.reports.figures",
    "cvrl_tf.evaluation.gallery": "cvrl_tf.reports.gallery",
    "cvrl_tf.evaluation.measurements": "cvrl_tf.reports.measurements",
    "cvrl_tf.evaluation.page": "cvrl_tf.reports.html",
    "cvrl_tf.evaluation.tables": "cvrl_tf.reports.tables",
    "cvrl_tf.data.annotations": "cvrl_tf.preparation.annotations",
    "cvrl_tf.data.preparation": "cvrl_tf.preparation.prepare",
    "cvrl_tf.data.subsets": "cvrl_tf.preparation.subsets",
    "cvrl_tf.data.verification": "cvrl_tf.preparation.verification",
}

# What Python code calls, beside what `GIN` lists.
PYTHON: dict[str, str] = {
    "Pipeline.stream": "Pipeline.train_batches",
    "Pipeline.once": "Pipeline.eval_batches",
    "Pipeline.damage": "Pipeline.train_damage",
    "Pipeline.damage_of_once": "Pipeline.eval_damage",
    "saved_model.export": "inference.saved_model.export_encoder",
    "embedding.embed": "inference.embedding.embed_videos",
    "neighbours.knn": "measures.neighbors.Knn",
    "checkpoints.initialise": "checkpoints.initialize",
    "checkpoints.build_encoder": "checkpoints.SavedRun.new_encoder",
    "checkpoints.check_architecture": "checkpoints.SavedRun.check",
    "checkpoints.encoder_facts": "checkpoints.SavedRun.facts",
    "checkpoints.sampling_of": "checkpoints.SavedRun.sampling",
}

FLAGS: dict[str, str] = {
    "python -m cvrl_tf.serve --patience": "--timeout",
    "tools/make_tfrecords.py --patience": "--timeout",
    "tools/inflate.py --how=centre": "--how=center",
}
