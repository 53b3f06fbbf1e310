import ContentStore
import Foundation

/// A manifest as the general JSON encoder writes it.
func canonicalJSON(_ manifest: Manifest) throws -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    return Array(try encoder.encode(manifest))
}
