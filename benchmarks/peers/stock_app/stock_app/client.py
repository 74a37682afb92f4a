"""A plain client: it gives the arrays back, or trains, as Flower's PyTorch quick start does."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round's work of one client."""
    arrays = message.content.array_records["arrays"]
    if context.run_config["work"] == "mobilenetv3":
        from stock_app.training import trained

        arrays, loss, images = trained(arrays, str(context.node_config["data-dir"]))
    else:
        arrays, loss, images = echoed(arrays, int(context.node_config["partition-id"])), 0.0, 1
    metrics = MetricRecord({"loss": loss, "num-examples": images})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def echoed(arrays: ArrayRecord, partition: int) -> ArrayRecord:
    """The same numbers and one more: Flower stores equal arrays only once, which no real update is."""
    return ArrayRecord([array + 1 + partition for array in arrays.to_numpy_ndarrays()])
