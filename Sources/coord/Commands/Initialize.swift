internal import ArgumentParser
internal import Basics
internal import ClusterFile
internal import Coordinator
internal import Datasets
internal import Foundation
internal import Registry

struct Initialize: CoordCommand {
    static let configuration = CommandConfiguration(
        commandName: "init",
        abstract: "Write a commented cluster file.",
        discussion: "Example: coord init --yes\n\nClasses, sizes, mean and deviation are read from the data."
    )
    @OptionGroup var common: CommonOptions
    @Flag(name: .shortAndLong, help: "Take the defaults without asking.")
    var yes = false
    @Option(help: "A dataset that coord data list names; digits is fetched when it is not there.")
    var dataset = "digits"
    @Option(help: "The cluster's name.")
    var name = "home-lab"

    func perform(_ console: Console) throws {
        guard Files.kind(common.file) == nil else {
            throw Outcome(
                exitCode: .cannotWrite,
                message: "\(common.file) is there already",
                hint: "coord init -f OTHER.yaml"
            )
        }
        let workspace = try common.workspace()
        let library = DataLibrary(workspace: workspace)
        var name = name
        var dataset = dataset
        if !yes, isatty(0) != 0 {
            name = ask("name of the cluster", name)
            dataset = ask("dataset", dataset)
        }
        let registry = try Registry(path: workspace.registryPath, access: .readWrite)
        if dataset == DigitsSource.name, try registry.read({ try $0.dataset(named: dataset) }) == nil {
            let path = try DigitsSource().fetch(into: workspace.artifacts + "/downloads")
            try library.add(path, name: dataset, options: DigitsSource.options, console)
        }
        let (row, data) = try library.open(dataset)
        let (mean, deviation) = Self.measure(data)
        let text = ClusterTemplate.make(
            cluster: name,
            dataset: ClusterTemplate.DatasetFacts(
                name: dataset,
                count: row.count,
                classes: row.classes,
                shape: row.shape,
                mean: mean,
                deviation: deviation
            ),
            hosts: [
                ClusterTemplate.HostChoice(name: "local", address: "local", workers: min(2, Machine.cores))
            ]
        )
        try Files.writeAtomically(text, to: common.file)
        console.say("wrote \(common.file)\nnext: coord plan, then coord up")
    }

    private func ask(_ question: String, _ standard: String) -> String {
        FileHandle.standardError.write(Data("\(question) [\(standard)]: ".utf8))
        let answer = readLine() ?? ""
        return answer.isEmpty ? standard : answer
    }

    /// Mean and deviation over all samples, one a channel or one for all features.
    private static func measure(_ data: Dataset) -> (mean: [Float], deviation: [Float]) {
        let channels = data.shape.count == 3 ? data.shape[0] : 1
        let size = data.shape.reduce(1, *)
        var sums = [Double](repeating: 0, count: channels)
        var squares = sums
        var values = [Float](repeating: 0, count: size)
        for sample in 0..<data.count {
            values.withUnsafeMutableBufferPointer { data.read(sample, into: $0) }
            for (index, value) in values.enumerated() {
                sums[index * channels / size] += Double(value)
                squares[index * channels / size] += Double(value) * Double(value)
            }
        }
        let count = Double(max(1, data.count * size / channels))
        let mean = sums.map { $0 / count }
        let deviation = zip(squares, mean).map { max(0, $0 / count - $1 * $1).squareRoot() }
        return (mean.map(Float.init), deviation.map(Float.init))
    }
}
