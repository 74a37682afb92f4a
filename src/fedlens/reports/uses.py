"""The use of each plot of a page, in one line under its title."""

from __future__ import annotations

USES = {
    "Accuracy": "Shows whether more rounds would help, and whether some clients are left behind.",
    "Accuracy over virtual time": "Compares schedules fairly: a round with slow clients takes longer.",
    "Loss": "Moves before accuracy does. Training falls while validation rises: the model overfits.",
    "Client accuracy": "Shows which clients the model serves badly. Few test images make a bar uncertain.",
    "Shared against personal": "Shows who gains from a model of its own: points above the line.",
    "Contribution": "Shows who hurts: an interval below 0. Near the end of a run all are small.",
    "Who holds what": "Shows how heterogeneous (non-IID) the partition is, and classes that few clients hold.",
    "How unlike the others": "Explains slow learning and low client accuracy: look at the highest bars first.",
    "Clients' models at each other": "Shows who resembles whom: a column that is pale except in its own row has "
    "images unlike everybody's.",
    "Confusion matrix": "Shows which classes are taken for which: collect more images of those, or merge them.",
    "Recall by class": "Shows classes that are missed, which accuracy hides when a class is rare.",
    "Drift": "Large or growing drift: fewer local epochs, a smaller learning rate, or FedProx and SCAFFOLD help.",
    "Diversity": "High values: clients cancel each other out, and averaging moves the model little.",
    "Cosine": "Falling towards 0: clients no longer agree. A client below 0 may hold wrong labels or attack.",
    "Labels": "Explains jumps between rounds: the round's clients did not represent everybody.",
    "Modality": "Shows what a row without a text costs, and one without an image.",
    "Zero shot": "Shows whether names of classes are enough: compare it with chance among as many names.",
    "Retrieval": "Shows whether searching by words finds the right pictures.",
    "Attack": "Shows whether a defence works: success should stay near what chance gives.",
    "Spent privacy": "Shows what the run has cost in privacy, and how many rounds a budget pays for.",
    "Time": "Shows what to speed up first.",
    "Communication": "Tells what a round costs on slow or paid networks.",
    "Update norm": "Falls as training settles. Growth means that it diverges: lower the learning rate.",
    "Staleness": "High values: many updates are computed from old models. Lower the concurrency.",
    "Learning rate": "Confirms the schedule, when a curve bends for no other reason.",
    "Test accuracy": "Shows which run learns faster, and which ends higher.",
    "Test accuracy by communication": "Shows which run learns most for the megabytes it sends.",
    "Test accuracy by privacy": "Shows which run learns most for the privacy that it spends.",
    "Most confident mistakes": "Look here first for wrong labels and for classes that look alike.",
    "Behind the confusion matrix": "Shows what images of one kind of mistake have in common.",
    "Nearest texts": "Shows what the model goes by, and texts that say little of their image.",
    "Least confident hits": "Shows what the model is nearly wrong about: collect more images like these.",
}

FIGURES = {
    "test accuracy": "How often the shared model is right on images that no client trained on. Compare it with chance.",
    "balanced accuracy": "Take this one when classes differ in size: every class counts the same.",
    "AUROC": "How well the two classes are told apart, whatever the threshold: 0.5 is chance, 1 is perfect.",
    "client accuracy": "What clients themselves see: each client's model on images of its own kind.",
    "standard deviation": "How unequally the clients are served: small is fair.",
    "communication": "What the run costs on a slow or paid network.",
    "time": "What the rounds take on this machine; it says nothing of real networks.",
}
"""The use of the figures at the top of a report, by the start of their labels."""
