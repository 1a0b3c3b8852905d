"""Why a silo does not take part: codes from a fixed list. The hub is told the code and no more."""

REFUSALS = {
    "study_missing": "the hub has no signed study for this run",
    "signature_wrong": "the study is not signed by this federation's hub, or is of another version",
    "federation_differs": "the study belongs to another federation",
    "not_invited": "the study does not name this silo",
    "bundle_differs": "the app bundle is not the one this silo allows; hub and silo need the same version",
    "configuration_differs": "the run's configuration is not that of the signed study",
    "base_not_allowed": "the silo's base model is not on its own policy's list",
    "task_not_allowed": "the silo's policy does not allow this task",
    "rank_too_high": "model.rank, with the strategy's private rank, is above the silo's policy; lower it",
    "rounds_too_many": "rounds is above the silo's policy; lower it",
    "steps_too_many": "train.steps is above the silo's policy; lower it",
    "batch_too_large": "train.batch_size is above the silo's policy; lower it",
    "length_too_long": "train.length is above the silo's policy; lower it",
    "tries_too_many": "alone.rates, adapt_rates, distil or blend names more than 16 numbers; name fewer",
    "scores_too_many": "evaluate has more than 10000000 characters, 100000 answers or 32768 answer_tokens; lower it",
    "kind_not_allowed": "the silo's policy does not answer this kind of message",
    "content_not_allowed": "the reply holds a number or a fact that the silo's policy does not let out",
    "content_too_long": "the reply holds a table of more than 64 KiB; ask the silo for fewer languages",
    "parcel_missing": "the silo no longer has the update that its reply names",
    "egress_too_large": "the reply is larger than the silo's policy lets out in a round or a day",
}
