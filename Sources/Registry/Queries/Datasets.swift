public import Basics
internal import GRDB

extension DatasetRow {
    init(_ row: Row) throws {
        self.init(
            name: try row.value("name"),
            manifest: try row.digest("manifest"),
            count: try row.value("count"),
            classes: try row.json("classes"),
            shape: try row.json("shape"),
            source: try row.optionalDigest("source"),
            added: try row.value("added")
        )
    }
}

extension RegistrySnapshot {
    /// What each name means now, by name.
    public func datasets() throws -> [DatasetRow] {
        try rows("SELECT * FROM datasets ORDER BY name, added DESC, manifest").map(DatasetRow.init)
            .reduce(into: []) { if $0.last?.name != $1.name { $0.append($1) } }
    }

    /// What `name` means now.
    public func dataset(named name: String) throws -> DatasetRow? {
        try row("SELECT * FROM datasets WHERE name = ? ORDER BY added DESC, manifest LIMIT 1", [name])
            .map(DatasetRow.init)
    }

    /// The dataset with that manifest, under the name it got last.
    public func dataset(manifest: Digest) throws -> DatasetRow? {
        try row("SELECT * FROM datasets WHERE manifest = ? ORDER BY added DESC, name LIMIT 1", [manifest.hex])
            .map(DatasetRow.init)
    }
}

extension RegistryTransaction {
    /// Makes `dataset.name` mean this dataset.
    public func put(_ dataset: DatasetRow) throws {
        try upsert(
            "datasets",
            key: ["name", "manifest"],
            [
                ("name", dataset.name),
                ("manifest", dataset.manifest.hex),
                ("count", dataset.count),
                ("classes", try JSONText.encode(dataset.classes)),
                ("shape", try JSONText.encode(dataset.shape)),
                ("source", dataset.source?.hex),
                ("added", dataset.added),
            ]
        )
    }
}
