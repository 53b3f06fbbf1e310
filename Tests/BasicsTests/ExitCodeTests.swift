internal import Basics
internal import Testing

@Suite("Exit codes")
struct ExitCodeTests {
    @Test func thePageOfExitCodesListsThemAll() throws {
        let root = Files.parent(Files.parent(Files.parent(#filePath)))
        let page = try Files.readText(root + "/docs/reference/exit-codes.md")
        let listed = page.split(separator: "\n").compactMap { line in
            line.hasPrefix("| ") ? Int32(line.dropFirst(2).prefix { $0 != " " }) : nil
        }
        let codes: [ExitCode] = [
            .ok, .failed, .usage, .badInput, .unreachable, .bug, .cannotWrite, .locked, .protocolVersion,
            .keyRefused, .interrupted,
        ]
        #expect(listed == codes.map(\.rawValue))
    }
}
