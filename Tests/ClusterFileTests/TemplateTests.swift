internal import Basics
internal import Testing

@testable internal import ClusterFile

@Suite("What coord init writes")
struct TemplateTests {
    private let digits = ClusterTemplate.DatasetFacts(
        name: "digits",
        count: 1797,
        classes: (0..<10).map(String.init),
        shape: [1, 8, 8],
        mean: [4.88416],
        deviation: [6.01680]
    )

    @Test func itParsesAndFitsTheData() throws {
        let text = ClusterTemplate.make(
            cluster: "my lab",
            dataset: digits,
            hosts: [
                .init(name: "local", address: "local", workers: 2),
                .init(name: "3090", address: "192.168.1.50", port: 2222, user: "me"),
            ]
        )
        let file = try ClusterFile.parse(text: text, path: "cluster.yaml")
        #expect(file.cluster == "my-lab" && file.dataset == "digits")
        #expect(file.hosts.map(\.name) == ["local", "3090"] && file.hosts.map(\.workers) == [2, 1])
        #expect(file.host("3090")?.port == 2222 && file.host("3090")?.user == "me")
        #expect(file.run?.model.type == "simple_cnn" && file.run?.epochs == 11)
        #expect(file.deploy?.host == "local" && file.deploy?.minimum == nil)
        #expect(text.contains("# 1797 samples, 10 classes, images of 8 x 8 pixels, 1 channel\n"))
        #expect(text.contains("# classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n"))
        #expect(text.contains("# input values: mean 4.8842, deviation 6.0168\n"))
    }

    @Test func rowsOfNumbersGetAnMLP() throws {
        var table = digits
        table.name = "../data/my wine: red.csv"
        table.shape = [13]
        table.classes = ["a\nrun: 3", "b"]
        let text = ClusterTemplate.make(
            cluster: "",
            dataset: table,
            hosts: [.init(name: "a", address: "b")]
        )
        let file = try ClusterFile.parse(text: text, path: "cluster.yaml")
        #expect(file.run?.model.type == "mlp" && file.dataset == "../data/my wine: red.csv")
        #expect(file.cluster == "cluster")
    }
}
