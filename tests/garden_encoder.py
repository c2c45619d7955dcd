"""The authors' encoder as the Model Garden builds it, with weights that would show wrong wiring."""

import numpy as np
import tf_keras as keras


def garden_r3d50() -> keras.Model:
    """The network of the authors' YAML, which is not the Garden's default ResNet3D50."""
    from official.vision.configs import backbones_3d
    from official.vision.modeling.backbones import resnet_3d

    blocks = [("1", 3), ("1", 4), ("3", 6), ("3", 3)]
    specs = [
        backbones_3d.ResNet3DBlock(
            temporal_strides=1,
            temporal_kernel_sizes=(int(kernel),) * count,
            use_self_gating=False,
        )
        for kernel, count in blocks
    ]
    return resnet_3d.ResNet3D(
        model_id=50,
        temporal_strides=[spec.temporal_strides for spec in specs],
        temporal_kernel_sizes=[spec.temporal_kernel_sizes for spec in specs],
        use_self_gating=[spec.use_self_gating for spec in specs],
        input_specs=keras.layers.InputSpec(shape=[None, None, None, None, 3]),
        stem_type="v0",
        stem_conv_temporal_kernel_size=5,
        stem_conv_temporal_stride=2,
        stem_pool_temporal_stride=1,
        norm_momentum=0.9,
        norm_epsilon=1e-5,
    )


def randomize(model: keras.Model, seed: int) -> None:
    """Weights and statistics that would show any wrong wiring."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        noise = rng.normal(size=variable.shape).astype(np.float32)
        name = variable.name.rsplit("/", 1)[-1]
        if "variance" in name:
            variable.assign(0.5 + np.abs(noise))
        elif "gamma" in name:
            variable.assign(1 + 0.1 * noise)
        elif "kernel" in name:
            fan_in = np.prod(variable.shape[:-1])
            variable.assign(noise * np.sqrt(2 / fan_in))
        else:
            variable.assign(0.1 * noise)
