"""The algorithms by which runtimes are compared, one of each kind: what they add to a run's settings."""

SCAFFOLD = ("strategy.name=scaffold", "optimizer.keep=false", "optimizer.momentum=0", "optimizer.lr=0.15")
ONE_BY_ONE = ("schedule.name=fedbuff", "schedule.buffer_size=1", "schedule.concurrency=1", "optimizer.lr=0.15")
PRIVATE = ("privacy.insecure_seed=1", "federated.fraction_fit=1", "optimizer.keep=false", "optimizer.lr=0.1")
ALGORITHMS = {
    "FedAvg, where clients keep nothing": ("optimizer.keep=false", "optimizer.lr=0.06"),
    "SCAFFOLD, where clients keep their control variates": SCAFFOLD,
    "FedPer, where clients keep a part of the model": ("personalization.name=fedper", "optimizer.lr=0.1"),
    "FedBuff, where tasks go out one by one": ONE_BY_ONE,
    "secure aggregation, where a round has five stages": ("privacy.secure_aggregation=true", "optimizer.lr=0.06"),
    "central privacy, where clients are told the clip": (
        *("privacy.mode=central", "privacy.sampling=cyclic", "privacy.clip=adaptive", "privacy.noise_multiplier=0.1"),
        *("privacy.population=3", *PRIVATE),
    ),
    "local privacy, where clients keep ledgers": (
        "privacy.mode=local",
        "privacy.noise_multiplier=0.001",
        "privacy.delta=0.4",
        *PRIVATE,
    ),
    "privacy of images, where clients train by DP-SGD": (
        *("privacy.mode=example", "privacy.noise_multiplier=0.1", "privacy.min_images=2", *PRIVATE),
    ),
    "Krum, where every update is needed by itself": ("aggregation.name=krum", "aggregation.f=0", "optimizer.lr=0.1"),
}
"""For three clients, who all take part. Of FedBuff's tasks one is out at a time, or chance would say who is first."""
