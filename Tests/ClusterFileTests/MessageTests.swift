internal import Basics
internal import Testing

@testable internal import ClusterFile

@Suite("Messages about a bad cluster file")
struct MessageTests {
    /// The message of a text that must be refused.
    private func message(_ text: String) -> String {
        do {
            _ = try ClusterFile.parse(text: text, path: "c.yaml")
            return "accepted"
        } catch let error as ClusterFileError {
            #expect(error.exitCode == .badInput)
            return error.message
        } catch {
            return "another error: \(error)"
        }
    }

    private func hostMessage(_ keys: String) -> String {
        message("cluster: c\nhosts:\n  a: { address: b, \(keys) }\n")
    }

    @Test(arguments: [
        ("epochs: thirty", "4:50: `run.epochs` must be a whole number, not `thirty`"),
        ("epochs: \"30\"", "4:50: `run.epochs` must be a whole number, not `30`"),
        ("epochs: 1.5", "4:50: `run.epochs` must be a whole number, not `1.5`"),
        ("epochs: [3]", "4:50: `run.epochs` must be a whole number, not a list"),
        ("epochs: ", "4:51: `run.epochs` has no value; write a whole number or leave the key out"),
        ("epochs: 0", "4:50: `run.epochs` must be from 1 to 1000000, not 0"),
        ("epoch: 3", "4:42: unknown key `epoch` in `run`; did you mean `epochs`?"),
        (
            "exchange: in8",
            "4:52: `run.exchange` must be auto, sync, bf16, int8, topk, powersgd or diloco, not `in8`; did you mean `int8`?"
        ),
        ("batch_size: 3", "4:42: unknown key `batch_size` in `run`; did you mean `batch`?"),
        ("wobble: 3", "4:42: unknown key `wobble` in `run`"),
        (
            "batch: 60, lanes: 16",
            "4:49: `run.batch` 60 cannot be cut into 16 equal lanes; nearest are 48 and 64"
        ),
        (
            "batch: 8, lanes: 16",
            "4:49: `run.batch` 8 cannot be cut into 16 equal lanes; nearest are 16 and 32"
        ),
        ("lanes: 12", "4:49: `run.lanes` must be a power of two, not 12; nearest are 8 and 16"),
        ("lanes: 128", "4:49: `run.lanes` must be from 1 to 64, not 128"),
        (
            "engine: torch",
            "4:50: `run.engine` `torch` is not there yet; this version trains with `native`"
        ),
        (
            "engine: nativ",
            "4:50: `run.engine` must be native or torch, not `nativ`; did you mean `native`?"
        ),
        (
            "optimizer: { type: adan }",
            "4:61: `run.optimizer.type` must be sgd, adam, adamw, rmsprop, lamb or lion, not `adan`; did you mean `adam`?"
        ),
        (
            "optimizer: { learning_rate: 0 }",
            "4:70: `run.optimizer.learning_rate` must be greater than 0, not 0"
        ),
        (
            "optimizer: { learning_rate: -1e-3 }",
            "4:70: `run.optimizer.learning_rate` must be greater than 0, not -1e-3"
        ),
        (
            "optimizer: { learning_rate: .inf }",
            "4:70: `run.optimizer.learning_rate` must be a number, not `.inf`"
        ),
        (
            "optimizer: { lr: 1 }",
            "4:55: unknown key `lr` in `run.optimizer` (adamw); did you mean `learning_rate`?"
        ),
        (
            "optimizer: { momentum: 0.9 }",
            "4:55: unknown key `momentum` in `run.optimizer` (adamw)"
        ),
        (
            "optimizer: { type: sgd, nesterov: yes }",
            "4:76: `run.optimizer.nesterov` must be true or false, not `yes`"
        ),
        (
            "schedule: { type: cosinus }",
            "4:60: `run.schedule.type` must be constant, step, cosine, one_cycle or plateau, not `cosinus`"
                + "; did you mean `cosine`?"
        ),
        (
            "schedule: { type: cosine, warmup: 3 }",
            "4:68: unknown key `warmup` in `run.schedule` (cosine); did you mean `warmup_steps`?"
        ),
        ("schedule: cosine", "4:52: `run.schedule` must be a mapping, not `cosine`"),
        (
            "monitor: train_loss",
            "4:51: `run.monitor` must be val_accuracy or val_loss, not `train_loss`"
        ),
        (
            "split: { validation: 0 }",
            "4:63: `run.split.validation` must be greater than 0: "
                + "the best checkpoint is chosen on validation data"
        ),
        (
            "split: { validation: 0.5, test: 0.5 }",
            "4:74: `run.split.test` leaves nothing to train on: validation and test together must be less than 1"
        ),
        (
            "split: { validation: 20 }",
            "4:63: `run.split.validation` must be at least 0 and less than 1, not 20"
        ),
        (
            "loss: { type: focl }",
            "4:56: `run.loss.type` must be cross_entropy, focal, mse or bce, not `focl`; did you mean `focal`?"
        ),
        (
            "loss: { class_weights: [1, -2] }",
            "4:69: `run.loss.class_weights[1]` must be 0 or greater, not -2"
        ),
        (
            "sampling: balance",
            "4:52: `run.sampling` must be uniform or balanced, not `balance`; did you mean `balanced`?"
        ),
        (
            "normalize: { type: given, mean: [0.5], std: [0] }",
            "4:87: `run.normalize.std[0]` must be greater than 0, not 0"
        ),
        ("averaging: 1", "4:53: `run.averaging` must be at least 0 and less than 1, not 1"),
        (
            "batch: 8, lanes: 4, accumulate: 3",
            "4:74: `run.accumulate` must be at most 2, the samples of a lane, not 3"
        ),
        (
            "early_stop: { patients: 3 }",
            "4:56: unknown key `patients` in `run.early_stop`; did you mean `patience`?"
        ),
        ("seed: -1", "4:48: `run.seed` must be at least 0, not -1"),
        ("kernels: v5", "4:51: `run.kernels` must be auto, v2, v3 or v4, not `v5`"),
        ("keep: { best: 0 }", "4:56: `run.keep.best` must be from 1 to 1000000, not 0"),
        ("name: s", "4:42: duplicate key `name` in `run`, first given in line 4"),
    ])
    func ofARun(keys: String, expected: String) {
        #expect(message(Samples.withRun(keys)) == "c.yaml:" + expected)
    }

    @Test(arguments: [
        (
            "{ type: simple_cn }",
            "5:18: `run.model.type` must be linear, mlp, simple_cnn, tiny_net, resnet18, resnet34, resnet50, "
                + "mobilenet_v2, vit_tiny, gpt or sequential, not `simple_cn`; did you mean `simple_cnn`?"
        ),
        (
            "{ type: sequential, layers: [relu, { type: dense, unit: 3 }] }",
            "5:60: unknown key `unit` in `run.model.layers[1]` (dense); did you mean `units`?"
        ),
        ("{ type: sequential }", "5:10: `run.model` lacks the key `layers`"),
        ("{ hidden: [3] }", "5:10: `run.model` lacks the key `type`"),
        ("{ type: mlp, hidden: 3 }", "5:31: `run.model.hidden` must be a list of whole numbers, not `3`"),
        ("{ type: mlp, hidden: [] }", "5:31: `run.model.hidden` must not be empty"),
        (
            "{ type: simple_cnn, channels: [8, x] }",
            "5:44: `run.model.channels[1]` must be a whole number, not `x`"
        ),
        ("{ type: linear, hidden: 3 }", "5:26: unknown key `hidden` in `run.model` (linear)"),
    ])
    func ofAModel(model: String, expected: String) {
        let text =
            "cluster: c\nhosts: { a: { address: local } }\ndataset: d\nrun:\n  model: \(model)\n  name: r\n"
        #expect(message(text) == "c.yaml:" + expected)
    }

    @Test(arguments: [
        ("prot: 22", "3:20: unknown key `prot` in `hosts.a`; did you mean `port`?"),
        ("port: 0", "3:26: `hosts.a.port` must be from 1 to 65535, not 0"),
        ("port: 65536", "3:26: `hosts.a.port` must be from 1 to 65535, not 65536"),
        ("workers: -1", "3:29: `hosts.a.workers` must be from 0 to 1024, not -1"),
        (
            "roles: [train, sreve]",
            "3:35: `hosts.a.roles[1]` must be train or serve, not `sreve`; did you mean `serve`?"
        ),
        ("roles: train", "3:27: `hosts.a.roles` must be a list of names, not `train`"),
        (
            "roles: [serve], workers: 1",
            "3:45: `hosts.a.workers` must be 0 on a host without the role `train`"
        ),
        ("rented: true", "3:28: `hosts.a.rented` needs `stop`, the command that stops the host"),
        ("user: -oProxyCommand=x", "3:26: `hosts.a.user` must be one word that does not begin with `-`"),
        ("peer: somewhere", "3:26: `hosts.a.peer` must be `address:port`, not `somewhere`"),
        (
            "host_key: SHA256:abc",
            "3:30: `hosts.a.host_key` must be `SHA256:` and 43 letters, or a line such as `ssh-ed25519 AAAA…`"
        ),
        ("price_per_hour: free", "3:36: `hosts.a.price_per_hour` must be a number, not `free`"),
    ])
    func ofAHost(keys: String, expected: String) {
        #expect(hostMessage(keys) == "c.yaml:" + expected)
    }

    @Test(arguments: [
        ("", "c.yaml:1:1: the file is empty"),
        ("- a\n", "c.yaml:1:1: the file must be a mapping of keys to values"),
        ("cluster: c\n", "c.yaml:1:1: the file lacks the key `hosts`"),
        ("cluster: c\nhosts: {}\n", "c.yaml:2:8: `hosts` must name at least one host"),
        ("cluster: c\nhosts: { a: {} }\n", "c.yaml:2:13: `hosts.a` lacks the key `address`"),
        ("cluster: c\nhosts: { a: b }\n", "c.yaml:2:13: `hosts.a` must be a mapping, not `b`"),
        (
            "cluster: c\nhosts: { a: { address: me@b } }\n",
            "c.yaml:2:24: `hosts.a.address` must not hold a user; write it under `user`"
        ),
        (
            "cluster: c\nhosts: { a: { address: -b } }\n",
            "c.yaml:2:24: `hosts.a.address` must be `local`, a host name or an address, not `-b`"
        ),
        (
            "cluster: c\nhosts: { a: { pod: \"a/b\" } }\n",
            "c.yaml:2:20: `hosts.a.pod` must be RunPod's id of the pod: letters, digits and `-`, not `a/b`"
        ),
        (
            "cluster: c\nhosts: { a: { address: local, pod: x } }\n",
            "c.yaml:2:36: `hosts.a.pod` must not stand at this machine"
        ),
        (
            "cluster: c\nhosts: { a: { pod: x }, b: { pod: x, address: d } }\n",
            "c.yaml:2:25: host `b` is the same place as host `a`; give it a `dir` of its own"
        ),
        (
            "cluster: c\nhosts: { a: { address: local }, b: { address: local } }\n",
            "c.yaml:2:33: host `b` is the same place as host `a`; give it a `dir` of its own"
        ),
        (
            "cluster: c\nhosts: { a: { address: local, rented: true, stop: halt } }\n",
            "c.yaml:2:39: `hosts.a.rented` must be false for this machine, which is never stopped"
        ),
        (
            "cluster: c\nhosts: { -a: { address: b } }\n",
            "c.yaml:2:10: host name `-a` must be at most 64 letters, digits, `-`, `_` or `.`, "
                + "and begin with a letter or digit"
        ),
        (
            "cluster: a b\nhosts: { a: { address: b } }\n",
            "c.yaml:1:10: `cluster` must be at most 64 letters, digits, `-` or `_`, not `a b`"
        ),
        (
            "cluster: c\ndefaults: { port: x }\nhosts: { a: { address: b }, d: { address: e } }\n",
            "c.yaml:2:19: `defaults.port` must be a whole number, not `x`"
        ),
        (
            "cluster: c\ndefaults: { usr: x }\nhosts: { a: { address: b } }\n",
            "c.yaml:2:13: unknown key `usr` in `defaults`; did you mean `user`?"
        ),
        (
            "cluster: c\ndefaults: { address: x }\nhosts: { a: { address: b } }\n",
            "c.yaml:2:13: unknown key `address` in `defaults`"
        ),
        (
            "cluster: c\nhosts: { 3090: { address: b } }\ndeploy: { host: 3091 }\n",
            "c.yaml:3:17: unknown host `3091` in `deploy.host`; did you mean `3090`?"
        ),
        (
            "cluster: c\nhosts: { a: { address: b, roles: [train] } }\ndeploy: { host: a }\n",
            "c.yaml:3:17: `deploy.host` names `a`, which lacks the role `serve`"
        ),
        (
            "cluster: c\nhosts: { a: { address: b } }\ndeploy: { when: best }\n",
            "c.yaml:3:9: `deploy` lacks the key `host`"
        ),
        (
            "cluster: c\nhosts: { a: { address: b } }\nserve: { listen: 0.0.0.0:8000 }\n",
            "c.yaml:3:18: `serve.listen` 0.0.0.0:8000 can be dialled by others; it needs `token_env`"
        ),
        (
            "cluster: c\nhosts: { a: { address: b } }\nserve: { listen: 127.0.0.1:99999 }\n",
            "c.yaml:3:18: `serve.listen` must be `address:port` with a port from 1 to 65535, not `127.0.0.1:99999`"
        ),
        (
            "cluster: c\nhosts: { a: { address: b } }\nserve: { token_env: s3cr-t }\n",
            "c.yaml:3:21: `serve.token_env` must be the name of an environment variable, never the token itself"
        ),
        (
            "cluster: c\nhosts: { a: { address: b, workers: 0 } }\ndataset: d\nrun: { name: r, model: { type: linear } }\n",
            "c.yaml:2:8: `hosts` has no host that trains: one needs the role `train` and a worker"
        ),
        (
            "cluster: c\nhosts: { a: { address: b } }\nrun: { name: r, model: { type: linear } }\n",
            "c.yaml:1:1: the file lacks the key `dataset`"
        ),
        (
            "cluster: c\nhosts:\n  a: { address: b\ndataset: d\n",
            "c.yaml:4:8: malformed YAML: while parsing a flow mapping, did not find expected ',' or '}'"
        ),
        (
            "cluster: c\nhosts:\n\ta: { address: b }\n",
            "c.yaml:3:1: malformed YAML: while scanning for the next token, "
                + "found character that cannot start any token"
        ),
        (
            "cluster: c\n---\ncluster: d\n",
            "c.yaml:2:1: malformed YAML: expected a single document in the stream, but found another document"
        ),
        (
            "cluster: c\nhosts: { 3090: { address: b }, \"3090\": { address: d } }\n",
            "c.yaml:2:32: duplicate key `3090` in `hosts`, first given in line 2"
        ),
        (
            "cluster: c\nhosts: { a: { address: *x } }\n",
            "c.yaml:2:24: malformed YAML: found undefined alias"
        ),
    ])
    func ofAFile(text: String, expected: String) {
        #expect(message(text) == expected)
    }

    @Test func allProblemsAreReportedAtOnceInTheOrderOfTheFile() {
        let text = """
            clustr: x
            cluster: home
            hosts:
              a: { address: b, port: 99999, port: 22 }
              b: { adress: c }
            hosts: 3
            run:
              epochs: none
              name: r
              "name": s
              model: { type: cnn }
            dataset: digits
            deploy: { host: z }

            """
        #expect(
            message(text) == """
                c.yaml:1:1: unknown key `clustr`; did you mean `cluster`?
                c.yaml:4:26: `hosts.a.port` must be from 1 to 65535, not 99999
                c.yaml:4:33: duplicate key `port` in `hosts.a`, first given in line 4
                c.yaml:5:6: `hosts.b` lacks the key `address`
                c.yaml:5:8: unknown key `adress` in `hosts.b`; did you mean `address`?
                c.yaml:6:1: duplicate key `hosts`, first given in line 3
                c.yaml:8:11: `run.epochs` must be a whole number, not `none`
                c.yaml:10:3: duplicate key `name` in `run`, first given in line 9
                c.yaml:11:18: `run.model.type` must be linear, mlp, simple_cnn, tiny_net, resnet18, resnet34, \
                resnet50, mobilenet_v2, vit_tiny, gpt or sequential, not `cnn`
                c.yaml:13:17: unknown host `z` in `deploy.host`
                """
        )
    }

    @Test func aMissingFileIsNamed() throws {
        let error = #expect(throws: ClusterFileError.self) {
            try ClusterFile.load(path: "/nowhere/cluster.yaml")
        }
        #expect(error?.code == .missingFile && error?.exitCode == .badInput)
        #expect(error?.message == "/nowhere/cluster.yaml: no such file")
        #expect(error?.hint == "run `coord init` to write a cluster file, or name one with -f")
    }

    @Test func aWarmUpLongerThanTheRunPointsAtItsLine() throws {
        let file = try ClusterFile.parse(text: Samples.homeLab, path: "c.yaml")
        try file.checkAgainst(stepsPerEpoch: 1)
        let short = try ClusterFile.parse(
            text: Samples.homeLab.replacing("warmup_steps:  20", with: "warmup_steps: 700"),
            path: "c.yaml"
        )
        try short.checkAgainst(stepsPerEpoch: 24)
        let error = #expect(throws: ClusterFileError.self) { try short.checkAgainst(stepsPerEpoch: 22) }
        #expect(
            error?.message
                == "c.yaml:25:43: `run.schedule.warmup_steps` 700 is longer than the run: "
                + "30 epochs of 22 steps are 660 steps"
        )
        #expect(error?.code == .badValue && error?.hint == "lower `warmup_steps`, or raise `epochs`")
    }

    @Test(arguments: [
        ("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("prot", "port", 1), ("ab", "ba", 1),
    ])
    func editsAreCounted(a: String, b: String, edits: Int) {
        #expect(Suggestion.editDistance(Array(a.utf8), Array(b.utf8)) == edits)
        #expect(Suggestion.editDistance(Array(b.utf8), Array(a.utf8)) == edits)
    }

    @Test func nothingFarFetchedIsSuggested() {
        #expect(Suggestion.nearest(to: "x", among: ["port", "user"]) == nil)
        #expect(
            Suggestion.nearest(to: "learning-rate", among: ["learning_rate", "factor"]) == "learning_rate"
        )
        #expect(
            Suggestion.nearest(to: "", among: ["a"]) == nil || Suggestion.nearest(to: "", among: []) == nil
        )
    }
}
