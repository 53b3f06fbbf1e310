/// Finds the name that somebody most likely meant.
enum Suggestion {
    /// The candidate nearest to `word`; nil when none is near enough to be a help.
    ///
    /// Near means few edits for the word's length, the same word up to `-`, `_` and case, the initials of
    /// a compound (`lr`), or a word that the candidate begins or that begins it (`batch_size`).
    static func nearest(to word: String, among candidates: some Sequence<String>) -> String? {
        let wanted = plain(word)
        var best: (name: String, distance: Int)?
        for candidate in candidates {
            let other = plain(candidate)
            let limit = max(wanted.count, other.count) / 3
            var distance = editDistance(wanted, other)
            if distance > limit {
                guard isInitials(word, of: candidate) || isPrefix(wanted, other) else { continue }
                distance = max(1, limit)
            }
            if distance < best?.distance ?? .max { best = (candidate, distance) }
        }
        return best?.name
    }

    /// `; did you mean `x`?`, or nothing.
    static func phrase(for word: String, among candidates: some Sequence<String>) -> String {
        nearest(to: word, among: candidates).map { "; did you mean `\($0)`?" } ?? ""
    }

    /// The fewest insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
    ///
    /// - Source: Levenshtein 1966 with Damerau's transposition (optimal string alignment).
    static func editDistance(_ a: [UInt8], _ b: [UInt8]) -> Int {
        var beforeLast = [Int](repeating: 0, count: b.count + 1)
        var last = Array(0...b.count)
        for i in a.indices {
            var row = [Int](repeating: i + 1, count: b.count + 1)
            for j in b.indices {
                let same = a[i] == b[j]
                row[j + 1] = min(last[j] + (same ? 0 : 1), last[j + 1] + 1, row[j] + 1)
                if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] {
                    row[j + 1] = min(row[j + 1], beforeLast[j - 1] + 1)
                }
            }
            (beforeLast, last) = (last, row)
        }
        return last[b.count]
    }

    // Cuts long words, so that a pasted blob costs no more than a name.
    private static func plain(_ word: String) -> [UInt8] {
        Array(word.lowercased().utf8.lazy.filter { $0 != 0x2D && $0 != 0x5F }.prefix(64))
    }

    private static func isInitials(_ word: String, of candidate: String) -> Bool {
        let parts = candidate.split(separator: "_")
        return parts.count > 1 && word.lowercased() == String(parts.compactMap(\.first))
    }

    private static func isPrefix(_ a: [UInt8], _ b: [UInt8]) -> Bool {
        min(a.count, b.count) >= 3 && (a.starts(with: b) || b.starts(with: a))
    }
}
