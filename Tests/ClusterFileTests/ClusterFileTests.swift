internal import Basics
internal import Foundation
internal import Testing

@testable internal import ClusterFile

@Suite("A good cluster file")
struct ClusterFileTests {
    @Test func theExampleOfTheDesignIsRead() throws {
        let file = try ClusterFile.parse(text: Samples.homeLab, path: "lab/cluster.yaml")
        #expect(file.cluster == "home-lab")
        #expect(file.hosts.map(\.name) == ["local", "3090", "pod-1"])
        let local = try #require(file.host("local"))
        #expect(local.isLocal && local.workers == 2 && local.roles == [.train, .serve])
        let big = try #require(file.host("3090"))
        #expect(big.address == "192.168.1.50" && big.port == 22 && big.user == "me" && big.watts == 450)
        #expect(big.directory == "/data/coord" && big.serves && big.trains && !big.rented)
        let pod = try #require(file.host("pod-1"))
        #expect(pod.port == 40022 && pod.user == "root" && pod.rented && pod.pricePerHour == 0.34)
        #expect(pod.stop == "runpodctl pod stop $RUNPOD_POD_ID")
        #expect(file.dataset == "digits" && file.datasetPath == nil)
        let run = try #require(file.run)
        #expect(run.name == "digits-cnn" && run.epochs == 30 && run.batch == 64 && run.lanes == 2)
        #expect(run.optimizer.parameters["learning_rate"] == .number(0.002))
        #expect(run.optimizer.parameters["beta2"] == .number(0.999), "defaults are filled in")
        #expect(run.optimizer.parameters["clip_norm"] == nil, "no value means no clipping")
        #expect(run.schedule.parameters == ["warmup_steps": .integer(20), "minimum_factor": .integer(0)])
        #expect(run.model.parameters["channels"]?.integers == [16, 32])
        #expect(file.kernels == nil)
        #expect(file.deploy == DeploySpec(host: "3090", when: .best, minimum: nil, improvement: 0))
        #expect(file.serve == ServeSpec(listen: "127.0.0.1:8000", tokenEnvironment: nil))
        #expect(file.places["run.schedule.warmup_steps"] == Place(line: 25, column: 44))
    }

    @Test func aPodNeedsNoAddress() throws {
        let file = try ClusterFile.parse(text: "cluster: c\nhosts: { a: { pod: abc123 } }\n", path: "c")
        let host = try #require(file.host("a"))
        #expect(host.pod == "abc123" && host.address.isEmpty && !host.isLocal && host.place == "pod abc123")
    }

    @Test func theQuickStartOfThisRepositoryIsRead() throws {
        let file = try ClusterFile.load(path: Samples.root + "/cluster.yaml")
        #expect(file.cluster == "quickstart" && file.hosts.map(\.workers) == [2])
        #expect(file.deploy?.host == "local" && file.deploy?.minimum == 0.95)
        #expect(file.run?.model.type == "simple_cnn" && file.run?.split.validation == 0.2)
    }

    @Test(arguments: [
        ("keys/id", "lab/c.yaml", "lab/keys/id"), ("keys/id", "c.yaml", "keys/id"),
        ("/etc/id", "lab/c.yaml", "/etc/id"), ("~/.ssh/id", "c.yaml", Machine.home + "/.ssh/id"),
    ])
    func anIdentityIsFoundFromTheFoldersOfTheFile(given: String, path: String, expected: String) throws {
        let text = "cluster: c\nhosts: { a: { address: b, identity: \(given) } }\n"
        #expect(try ClusterFile.parse(text: text, path: path).hosts[0].identity == expected)
    }

    @Test(arguments: [
        ("digits", nil), ("data.csv", "lab/data.csv"), ("./mnist", "lab/./mnist"), ("/data/x", "/data/x"),
    ])
    func aDatasetIsANameOrAPath(given: String, expected: String?) throws {
        let text = "cluster: c\nhosts: { a: { address: b } }\ndataset: \(given)\n"
        #expect(try ClusterFile.parse(text: text, path: "lab/c.yaml").datasetPath == expected)
    }

    @Test func lanesArePinnedOrFollowFromTheBatchAlone() throws {
        #expect(try Samples.run("batch: 512").lanes == 16)
        #expect(try Samples.run("batch: 96").lanes == 2)
        #expect(try Samples.run("batch: 33").lanes == 1)
        #expect(try Samples.run("batch: 64, lanes: 8").lanes == 8)
    }

    @Test func aRunRecordSurvivesJSONUnchanged() throws {
        // Whole numbers of a `number` parameter stand as integers, or 1.0 would come back as 1.
        let run = try Samples.run("optimizer: { type: sgd, learning_rate: 1.0, clip_norm: 5e0 }")
        #expect(run.optimizer.parameters["learning_rate"] == .integer(1))
        #expect(run.optimizer.parameters["clip_norm"]?.number == 5)
        let json = try JSONEncoder().encode(run)
        #expect(try JSONDecoder().decode(RunSpec.self, from: json) == run)
    }

    @Test func augmentIsAListOfNamesAndTypes() throws {
        #expect(try Samples.run("epochs: 1").augment == nil)
        #expect(try Samples.run("augment: []").augment == nil)
        let run = try Samples.run(
            "augment: [ { type: crop, padding: 2 }, flip, { type: mixup, alpha: 0.4 } ]"
        )
        #expect(run.augment?.map(\.type) == ["crop", "flip", "mixup"])
        #expect(run.augment?[0].parameters == ["padding": .integer(2)])
        #expect(run.augment?[1].parameters == ["axis": .text("horizontal"), "probability": .number(0.5)])
        for (text, words) in [
            ("augment: [ fly ]", "must be flip, crop, rotate, color, blur, cutout or mixup, not `fly`"),
            ("augment: flip", "must be a list, such as [ crop, flip ], not `flip`"),
            ("augment: [ { type: crop, padding: 0 } ]", "must be from 1 to 1024, not 0"),
            ("augment: [ { type: flip, axes: vertical } ]", "axes"),
        ] {
            let error = #expect(throws: ClusterFileError.self) { try Samples.run(text) }
            #expect(error?.message.contains(words) == true, "\(error?.message ?? "")")
        }
    }

    private func file(_ line: String) throws -> ClusterFile {
        let text = Samples.homeLab.replacing("  seed: 42", with: "  seed: 42\n  \(line)")
        return try ClusterFile.parse(text: text, path: "c.yaml")
    }

    @Test func memoryIsAPolicyAndALimit() throws {
        let plain = try file("loss: { type: mse }")
        #expect(plain.memory == .refuse && plain.memoryLimit == nil)
        let auto = try file("memory: auto")
        let refuse = try file("memory: refuse")
        // It decides no bit, so it is no part of the record.
        #expect(auto.memory == .auto && refuse.memory == .refuse && auto.run == refuse.run)
        let both = try file("memory: { policy: auto, limit: 512 }")
        #expect(both.memory == .auto && both.memoryLimit == 512 << 20)
        let limit = try file("memory: { limit: 512 }")
        #expect(limit.memory == .refuse && limit.memoryLimit == 512 << 20)
        for bad in ["memory: always", "memory: { limit: 1 }", "memory: { limits: 512 }"] {
            let error = #expect(throws: ClusterFileError.self) { try file(bad) }
            #expect(error?.message.contains("memory") == true, "\(bad)")
        }
    }

    @Test func kernelsCanBePinned() throws {
        let text = Samples.homeLab.replacing("  seed: 42", with: "  seed: 42\n  kernels: v3")
        #expect(try ClusterFile.parse(text: text, path: "c.yaml").kernels == .v3)
    }

    @Test func aHostWithoutTheTrainRoleHasNoWorkers() throws {
        let text = "cluster: c\nhosts: { a: { address: b, roles: [serve] } }\n"
        let host = try ClusterFile.parse(text: text, path: "c.yaml").hosts[0]
        #expect(host.workers == 0 && !host.trains && host.serves)
    }

    @Test func aListenerOffLoopbackIsAllowedWithAToken() throws {
        let text =
            "cluster: c\nhosts: { a: { address: b } }\nserve: { listen: 0.0.0.0:80, token_env: COORD_TOKEN }\n"
        #expect(try ClusterFile.parse(text: text, path: "c.yaml").serve.tokenEnvironment == "COORD_TOKEN")
    }

    @Test(arguments: [
        ("127.0.0.1:1", true), ("127.9.9.9:80", true), ("[::1]:80", true), ("localhost:80", true),
        ("0.0.0.0:80", false), ("[::]:80", false), ("127.0.0.1.example.org:80", false), ("127.1:80", false),
    ])
    func loopbackIsToldFromTheRest(text: String, isLoopback: Bool) throws {
        #expect(try #require(Endpoint(text)).isLoopback == isLoopback)
    }
}

/// Texts that several suites read.
enum Samples {
    static let homeLab = """
        cluster: home-lab
        defaults: { user: me, port: 22, identity: keys/coord_ed25519 }
        hosts:
          local: { address: local, workers: 2 }
          3090: { address: 192.168.1.50, roles: [train, serve], dir: /data/coord, watts: 450 }
          pod-1:
            address: 203.0.113.7
            port: 40022
            user: root
            dir: /workspace/.coord
            rented: true
            stop: runpodctl pod stop $RUNPOD_POD_ID
            price_per_hour: 0.34
        dataset: digits
        run:
          name: digits-cnn
          engine: native
          model: { type: simple_cnn }
          epochs: 30
          batch: 64
          lanes: auto
          # The optimizer and the schedule stand in the lines that tests point at.
          optimizer:
            { type: adamw, learning_rate: 0.002, weight_decay: 0.01 }
          schedule: { type: cosine, warmup_steps:  20 }
          seed: 42
          keep: { best: 3, latest: 2 }
          monitor: val_accuracy
        deploy: { host: 3090, when: best }
        serve: { listen: 127.0.0.1:8000 }

        """

    /// The root of the repository.
    static let root = Files.parent(Files.parent(Files.parent(#filePath)))

    /// A file with one host and a `run` in flow style, in line 4.
    static func withRun(_ keys: String) -> String {
        "cluster: c\nhosts: { a: { address: local } }\ndataset: d\n"
            + "run: { name: r, model: { type: linear }, \(keys) }\n"
    }

    static func run(_ keys: String) throws -> RunSpec {
        try #require(try ClusterFile.parse(text: withRun(keys), path: "c.yaml").run)
    }
}
