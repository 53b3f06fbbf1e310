/// The classes of a dataset, and how a label's text finds its class.
struct ClassNames {
    let names: [String]
    private let indices: [String: Int]

    /// - Parameters:
    ///   - given: in label order; nil = those seen, sorted as numbers when all are whole numbers, else as
    ///     text.
    ///   - seen: every label's text.
    init(given: [String]?, seen: [String]) {
        if let given {
            names = given
        } else {
            let distinct = Set(seen)
            let numbers = distinct.compactMap { Int($0) }
            names =
                numbers.count == distinct.count && Set(numbers).count == numbers.count
                ? distinct.sorted { (Int($0) ?? 0) < (Int($1) ?? 0) }
                : distinct.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
        }
        var indices = Dictionary(zip(names, names.indices), uniquingKeysWith: { first, _ in first })
        // Where the given names are words, the file may number them.
        if given != nil, names.allSatisfy({ Int($0) == nil }) {
            for index in names.indices { indices["\(index)"] = index }
        }
        self.indices = indices
    }

    func index(of label: String) -> Int? { indices[label] }

    /// For messages: `0, 1, 2, … 9`.
    var summary: String {
        names.count <= 12
            ? names.joined(separator: ", ")
            : names.prefix(10).joined(separator: ", ") + ", … (\(names.count) in all)"
    }
}
