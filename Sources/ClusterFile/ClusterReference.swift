extension ClusterFile {
    /// The annotated cluster file that `coord docs cluster` prints: documentation, schema and example in one.
    ///
    /// The tests hold it against the readers: every key that they ask for stands here with its meaning, every
    /// optional key of `run:` stands at its default, and each commented alternative parses.
    public static let reference = """
        # The cluster file, every key of it. It parses as it stands.
        #
        # Unknown keys are errors. Names may look like numbers (`3090:`, `host: 3090`). Paths start from the folder of
        # this file. Secrets never stand here: name the key file, or the environment variable that holds the token.
        # A line that begins with `# model:`, `# loss:`, `# normalize:`, `# optimizer:`, `# schedule:`, `# kernels:` or
        # `# exchange:` is an alternative to the line above it, and shows the defaults of its type.
        #
        # Read and checked, but without effect yet: `gpus`, `watts`, `listen` and `peer` of a host, `python`.

        # The cluster's name: letters, digits, `-` and `_`. Required.
        cluster: home-lab

        # Keys for hosts that do not say otherwise: any key of a host but `address` and `pod`. Default: none.
        defaults:
          user: me                              # who to log in as. Default: ~/.ssh/config, then your own name
          port: 22                              # SSH port, 1 to 65535. Default: ~/.ssh/config, then 22
          identity: keys/coord_ed25519          # private key; it never leaves this machine. Default: SSH agent, ~/.ssh

        # The machines, by a name of your choice. At least one. A host must answer `ssh`; nothing else is asked of it.
        hosts:
          local:
            address: local                      # `local` is this machine, without SSH. Required but for a `pod`
            workers: 2                          # trainers on the host; 0 for one that only serves. Default: 1
            roles: [train, serve]               # what the host may be used for. Default: both
          3090:
            address: 192.168.1.50               # a host name, an IP address or a name from ~/.ssh/config
            dir: /data/coord                    # the host's folder for all of coord. Default: ~/.coord
            threads: 8                          # CPU threads for each trainer. Default: cores over workers
            gpus: 1                             # GPUs that may be used. Default: all. The native engine uses none
            watts: 450                          # draw under load, in watts, for costs. Default: not counted
            listen: 192.168.1.50                # address or address:port its workers listen on. Default: private ones
            peer: 192.168.1.50:7400             # address:port that other hosts can dial. Default: found by probing
            host_key: SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA  # pinned. Default: shown at first contact
            python: /usr/bin/python3            # interpreter on the host. Default: python3
            boot: auto                          # auto: a user unit or crontab line starts the agent. Default: none
            lease: 24h                          # without work and word from here so long, the agent ends. Default: 24h
          pod-1:
            address: 203.0.113.7
            port: 40022
            user: root
            dir: /workspace/.coord
            roles: [train]
            rented: true                        # may be stopped when idle; own hosts never are. Default: false
            stop: runpodctl pod stop $RUNPOD_POD_ID   # runs on the host to stop it. Required with `rented: true`
            idle_stop: 10m                      # stopped after so long without work. Default: 10m
            stop_unsaved: false                 # true: after `lease`, even with checkpoints of its own. Default: false
            pod: abc123                         # RunPod's id of it. With RUNPOD_API_KEY set, RunPod tells address and
                                                # port before each connection, whatever stands here. Default: none
            price_per_hour: 0.34                # of a pod: compared with RunPod's, in USD. Default: not compared

        # How many training hosts must be ready for the run to begin. The others join when they come. Default: all of them.
        quorum: 2

        # A name from `coord data list`, or a path to a CSV file or a folder. Required when there is a `run`.
        dataset: digits

        # What to train. Default: nothing; the cluster only comes up.
        run:
          name: digits-cnn                      # for people, and for the model it makes. Required
          engine: native                        # the engine that trains; `native` is the one there is. Default: native
          # The model by `type`. Required.
          #   linear       one dense layer
          #   mlp          dense layers with ReLU between them; `hidden`: a list of widths
          #   simple_cnn   3x3 convolutions with ReLU and 2x2 max-pooling, then dense; `channels`: a list, one for each
          #                convolution; `hidden`: the width of the dense layer
          #   tiny_net     four convolutions with batch-norm; `width`: channels of the first
          #   resnet18, resnet34, resnet50   torchvision's; `stem`: imagenet, cifar for small images, auto by the image's
          #                size; `width`: channels of the first stage
          #   mobilenet_v2 torchvision's; `stem` as above; `dropout` before the last layer
          #   vit_tiny     vision transformer; `patch`: pixels a side; `layers`, `heads`, `features`, `dropout`
          #   gpt          language model for a text dataset; `positions`: learned or rotary; as vit_tiny otherwise
          #   sequential   `layers`: a list of layers by `type`, or their names alone where the defaults do; a dense layer
          #                with an output for each class follows by itself. docs/guides/models.md lists them
          # Batch-norm asks for 8 samples in each lane at least.
          model: { type: simple_cnn, channels: [16, 32], hidden: 64 }
          # model: { type: linear }
          # model: { type: mlp, hidden: [128] }
          # model: { type: tiny_net, width: 16 }
          # model: { type: resnet18, stem: auto, width: 64 }
          # model: { type: resnet34, stem: auto, width: 64 }
          # model: { type: resnet50, stem: auto, width: 64 }
          # model: { type: mobilenet_v2, stem: auto, dropout: 0.2 }
          # model: { type: vit_tiny, patch: 4, layers: 12, heads: 3, features: 192, dropout: 0 }
          # model: { type: gpt, positions: learned, layers: 6, heads: 6, features: 384, dropout: 0 }
          # model: { type: sequential, layers: [ flatten, { type: dense, units: 128 }, relu, { type: dropout, rate: 0.5 } ] }
          # What a wrong answer costs, by `type`. Default: cross_entropy.
          #   all            `class_weights`: a list, one number a class; each sample counts so many times. Default: ones
          #   cross_entropy  of the softmax; `label_smoothing` spreads that part of each label over all classes
          #   focal          turns to hard samples, the more the larger `gamma`
          #   mse, bce       squares, or each class against the rest
          loss: { type: cross_entropy, label_smoothing: 0 }
          # loss: { type: focal, gamma: 2 }
          # loss: { type: mse }
          # loss: { type: bce }
          # What happens to images before they are trained on: a list of names, or of types with more, in this order, as
          # `augment: [ { type: crop, padding: 4 }, flip, mixup ]`. docs/guides/data.md lists them. Default: nothing.
          augment: []
          # Which samples an epoch is made of: `uniform`, each one once, or `balanced`, all classes equally often, for data
          # that have few samples of some class: those come several times an epoch. Default: uniform
          sampling: uniform
          # What inputs are normalised with, by name or by `type`. Default: measured
          #   measured     mean and deviation of the training samples, one a channel of images, else one for all features
          #   none         nothing: an image's bytes are 0 to 255
          #   given        `mean` and `std`, a number each for as many; of an image's bytes as if those were 0 to 1, as in
          #                torchvision
          normalize: measured
          # normalize: none
          # normalize: { type: given, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }
          epochs: 10                            # passes over the training data, at least 1. Default: 10
          batch: 64                             # samples in a step, over all lanes and hosts. Default: 64
          # Parts that a batch is cut into, each computed by one worker thread; a power of two up to 64 that divides
          # `batch`. The result depends on it, never on the number of workers. More lanes let more workers help.
          # Default: auto, the largest up to 16 that leaves at least 32 samples a lane.
          lanes: auto
          # The optimizer by `type`. Default: adamw.
          #   all          `learning_rate`, greater than 0; `weight_decay`, 0 or greater; `clip_norm`, the largest norm
          #                of the whole gradient (default: no clipping); `weight_decay_on`, all or matrices, which spares
          #                biases and the weights of norms (default: all)
          #   adamw        `beta1` and `beta2`, how slowly the averages of gradient and square move; `epsilon`
          #   adam         as adamw, but the decay is added to the gradient
          #   sgd          `momentum`, at least 0 and less than 1; `nesterov`, true or false
          #   rmsprop      `alpha`, how slowly the average of the square moves; `epsilon`; `momentum`
          #   lamb         as adamw, each tensor's step as long as its weights: for very large batches
          #   lion         the sign of the averaged gradient: a tenth of adamw's rate, ten times its decay
          optimizer: { type: adamw, learning_rate: 0.001, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }
          # optimizer: { type: adam, learning_rate: 0.001, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0 }
          # optimizer: { type: sgd, learning_rate: 0.01, momentum: 0, nesterov: false, weight_decay: 0 }
          # optimizer: { type: rmsprop, learning_rate: 0.01, alpha: 0.99, epsilon: 1e-8, momentum: 0, weight_decay: 0 }
          # optimizer: { type: lamb, learning_rate: 0.001, beta1: 0.9, beta2: 0.999, epsilon: 1e-6, weight_decay: 0.01 }
          # optimizer: { type: lion, learning_rate: 0.0001, beta1: 0.9, beta2: 0.99, weight_decay: 0 }
          # The learning rate over time by `type`. Default: constant.
          #   all          `warmup_steps`, steps in which the rate rises from 0; longer than the run is an error
          #   step         times `factor` after every `every_epochs` epochs
          #   cosine       falls along half a cosine to `minimum_factor` of the rate
          #   one_cycle    rises, then falls below the start, once over the run
          #   plateau      times `factor` when the monitored metric has not become better by more than `improvement`
          #                for more than `patience` epochs
          schedule: { type: constant, warmup_steps: 0 }
          # schedule: { type: step, every_epochs: 10, factor: 0.1, warmup_steps: 0 }
          # schedule: { type: cosine, minimum_factor: 0, warmup_steps: 0 }
          # schedule: { type: one_cycle, warmup_steps: 0 }
          # schedule: { type: plateau, patience: 10, factor: 0.1, improvement: 0, warmup_steps: 0 }
          # Parts that each lane's share of a batch is computed in, one after the other: less memory, the same batch.
          accumulate: 1                         # the result depends on it. Default: 1
          # How exact the products of a training step are: float32, or bf16, which rounds the operands of dense layers and of
          # most convolutions. Weights, sums, optimizer, evaluation and serving stay float32. Default: float32
          precision: float32
          # What a trainer does when its memory will not do: `refuse` does not begin and says what it would need; `auto`
          # computes activations again or fewer lanes at a time, which takes longer and gives the same bits. As a mapping,
          # `memory: { policy: auto, limit: 4096 }`, `limit` is MiB that each trainer may have. Default of `limit`: what
          # is free.
          memory: refuse                        # Default: refuse
          # Moving average of the weights, `averaging` times the old one after each step: it is what is judged, saved
          # and served. 0.999 suits long runs.
          averaging: 0                          # at least 0 and less than 1. Default: 0, none
          # Ends the run when the monitored metric has not become better for a while.
          early_stop:
            patience: 0                         # epochs without a better value; 0 is never. Default: 0
            improvement: 0                      # how much better counts. Default: 0, any better
          seed: 42                              # keys everything random, 0 or greater. Default: 42
          # Checkpoints that stay without being pinned. More of them cost disk.
          keep:
            best: 3                             # by the monitored metric. Default: 3
            latest: 2                           # by time. Default: 2
          monitor: val_accuracy                 # or val_loss: what "best" means. Default: val_accuracy
          # How the dataset is cut, in fractions of the samples; the rest is for training.
          split:
            validation: 0.2                     # greater than 0, less than 1. Default: 0.2; of a text its last 0.1
            test: 0                             # read once, at the very end. Default: 0
            seed: 1                             # the cut's own, so that runs are judged alike. Default: 1
          # CPU kernels, which decide the bits of the result: v2 is SSE4.2, v3 is AVX2, v4 is AVX-512.
          # Default: auto, the best set that all hosts have.
          kernels: auto
          # kernels: v2
          # kernels: v3
          # kernels: v4
          # How workers tell each other what they computed: docs/concepts/slow-links.md. A name, or a `type` with more.
          # Default: sync.
          #   sync         every gradient exactly: the same bits on any cluster
          #   bf16, int8   gradients in 2 bytes or 1 byte a value
          #   topk         the largest values alone; `fraction` of all
          #   powersgd     matrices as products of two thin ones with `rank` columns
          #   diloco       `islands`, a power of two, train alone and meet every `local_steps` steps; at a meeting
          #                their mean progress is applied with `outer_learning_rate` and `outer_momentum`.
          #                Default of `islands`: as many as there are workers, rounded down
          #   auto         what the planner finds best on the cluster's links; coord plan shows it
          # The result of all but sync depends on who held which lanes.
          exchange: sync
          # exchange: { type: topk, fraction: 0.015625 }
          # exchange: { type: powersgd, rank: 4 }
          # exchange: { type: diloco, local_steps: 20, outer_learning_rate: 0.7, outer_momentum: 0.9 }

        # Where a run's best checkpoint goes by itself. Default: nowhere.
        deploy:
          host: 3090                            # one of the hosts, with the role `serve`. Required
          when: best                            # `best`, or `never` to deploy by hand only. Default: best
          minimum: 0.95                         # at least this val_accuracy, or at most this val_loss. Default: none
          improvement: 0                        # how much better than what is deployed. Default: 0, any better

        # How the serving host listens.
        serve:
          listen: 127.0.0.1:8000                # address:port; off loopback only with `token_env`. Default: as shown
          token_env: COORD_TOKEN                # variable in the environment of the host's agent: clients' token. Default: none

        """
}
