internal import Basics
internal import Testing

@testable internal import ClusterFile

@Suite("The annotated reference")
struct ReferenceTests {
    private let lines = ClusterFile.reference.split(separator: "\n", omittingEmptySubsequences: false).map(
        String.init
    )

    /// Reads the reference with `line` in place of the line that its alternative stands under.
    private func reading(alternative: String? = nil) -> Reading {
        var text = ClusterFile.reference
        if let alternative {
            let key = alternative.prefix { $0 != ":" }
            text = lines.map { line in
                line.hasPrefix("  \(key): ") ? "  " + alternative : line
            }.joined(separator: "\n")
        }
        return Reading(path: "reference", text: text)
    }

    /// The commented alternatives, without their `# `.
    private var alternatives: [String] {
        lines.compactMap { line in
            let text = line.drop { $0 == " " }
            guard text.hasPrefix("# ") else { return nil }
            let key = text.dropFirst(2).prefix { $0 != ":" }
            guard
                ["model", "loss", "normalize", "optimizer", "schedule", "kernels", "exchange"].contains(
                    String(key)
                ),
                line.hasPrefix("  ")
            else { return nil }
            return String(text.dropFirst(2))
        }
    }

    @Test func itParsesAndSoDoesEachAlternative() throws {
        _ = try ClusterFile.parse(text: ClusterFile.reference, path: "reference")
        #expect(alternatives.count == 30)
        for alternative in alternatives {
            let reading = reading(alternative: alternative)
            _ = ClusterFile.read(reading)
            #expect(throws: Never.self, "\(alternative)") { try reading.finish() }
        }
    }

    @Test func everyKeyThatIsReadStandsInIt() throws {
        for (index, reading) in ([nil] + alternatives).map(reading(alternative:)).enumerated() {
            _ = ClusterFile.read(reading)
            // All hosts share one set of keys, and `defaults` has the same but `address`.
            var asked: [String: Set<String>] = [:]
            var given: [String: Set<String>] = [:]
            for (path, keys) in reading.asked where path != "hosts" {
                asked[section(path), default: []].formUnion(keys)
            }
            for path in reading.places.keys {
                let parts = path.split(separator: ".").map(String.init)
                given[section(parts.dropLast().joined(separator: ".")), default: []].insert(
                    parts[parts.count - 1]
                )
            }
            // The keys of single layers stand in the guide.
            for (path, keys) in asked where !path.contains(".layers[") {
                let missing = keys.subtracting(given[path] ?? []).subtracting([
                    "clip_norm", "islands", "class_weights", "weight_decay_on",
                ])
                #expect(missing.isEmpty, "`\(path)`, alternative \(index): \(missing.sorted())")
            }
        }
        // No value of them is a default, so they stand in words only.
        #expect(ClusterFile.reference.contains("`clip_norm`, the largest norm"))
        #expect(ClusterFile.reference.contains("`weight_decay_on`, all or matrices"))
        #expect(ClusterFile.reference.contains("Default of `islands`"))
        #expect(ClusterFile.reference.contains("`class_weights`: a list, one number a class"))
    }

    @Test func everyTypeAndParameterStandsInIt() {
        for (key, table) in [
            ("model", TypeTable.models), ("optimizer", .optimizers), ("schedule", .schedules),
            ("loss", .losses), ("normalize", .normalizations),
        ] {
            for type in table.types {
                let live = lines.map { $0.drop { $0 == " " } }.map(String.init)
                let line = (alternatives + live).first {
                    $0.hasPrefix("\(key): { type: \(type.name)") || $0 == "\(key): \(type.name)"
                }
                #expect(line != nil, "\(key) \(type.name)")
                for parameter in type.parameters
                where !["clip_norm", "class_weights", "weight_decay_on"].contains(parameter.name) {
                    #expect(line?.contains("\(parameter.name): ") == true, "\(type.name) \(parameter.name)")
                }
            }
        }
    }

    @Test func everyLayerAndItsParametersStandInTheGuide() throws {
        let guide = try Files.readText(Samples.root + "/docs/guides/models.md").split(separator: "\n")
        for type in TypeTable.layers.types {
            let line = guide.first { $0.hasPrefix("| `\(type.name)`") || $0.contains("`\(type.name)`,") }
            #expect(line != nil, "\(type.name)")
            for parameter in type.parameters {
                #expect(line?.contains("`\(parameter.name)`") == true, "\(type.name) \(parameter.name)")
            }
        }
    }

    @Test func everyAugmentationAndItsParametersStandInTheGuide() throws {
        let guide = try Files.readText(Samples.root + "/docs/guides/data.md").split(separator: "\n")
        for type in TypeTable.augmentations.types {
            let line = guide.first { $0.hasPrefix("| `\(type.name)`") }
            #expect(line != nil, "\(type.name)")
            for parameter in type.parameters {
                #expect(line?.contains("`\(parameter.name)`") == true, "\(type.name) \(parameter.name)")
            }
        }
    }

    @Test func everyKeyHasAComment() {
        for (index, line) in lines.enumerated() {
            let text = line.drop { $0 == " " }
            guard let first = text.first, first != "#" else { continue }
            // Names of hosts mean nothing of their own; a host's `address`, `port` and so on are explained once.
            let key = String(text.prefix { $0 != ":" })
            let indent = line.count - text.count
            let isHostName = indent == 2 && text.hasSuffix(":") && ["local", "3090", "pod-1"].contains(key)
            let explained = line.contains("  # ") || lines[index - 1].drop { $0 == " " }.hasPrefix("#")
            let explainedBefore = lines[..<index].contains {
                $0.drop { $0 == " " }.hasPrefix("\(key): ") && $0.contains("  # ")
            }
            #expect(isHostName || explained || explainedBefore, "line \(index + 1): \(line)")
        }
    }

    @Test func itsRunStandsAtTheDefaults() throws {
        let run = try #require(try ClusterFile.parse(text: ClusterFile.reference, path: "r").run)
        let bare = """
            cluster: c
            hosts: { a: { address: local } }
            dataset: digits
            run: { name: digits-cnn, model: { type: simple_cnn } }

            """
        #expect(try ClusterFile.parse(text: bare, path: "b").run == run)
        for alternative in alternatives where !alternative.hasPrefix("kernels") {
            // Its layers, or its numbers, are no default.
            if alternative.contains("sequential") || alternative.contains("given") { continue }
            let key = String(alternative.prefix { $0 != ":" })
            let shown = ClusterFile.read(reading(alternative: alternative))?.run
            let shortest = alternative.replacing(#/\{ type: (\w+).*\}/#) { "{ type: \($0.output.1) }" }
            let filled = ClusterFile.read(reading(alternative: shortest))?.run
            #expect(shown != nil && shown == filled, "\(key): \(alternative)")
        }
    }

    @Test func thePageInTheDocumentationIsTheSame() throws {
        let page = try Files.readText(Samples.root + "/docs/reference/cluster.yaml")
        #expect(page == ClusterFile.reference, "run `make docs`")
    }

    @Test func itsLinesFitATerminal() {
        for line in lines { #expect(line.count <= 120, "\(line)") }
    }

    private func section(_ path: String) -> String {
        path.hasPrefix("hosts.") ? "hosts.*" : path == "defaults" ? "hosts.*" : path
    }
}
