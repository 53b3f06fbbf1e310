internal import GRDB

/// The tables, as a list of named migrations.
///
/// Append-only: a migration that was ever released is never edited; its name says what it brought.
enum RegistrySchema {
    static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("0001 the first tables") { try $0.execute(sql: first) }
        migrator.registerMigration("0002 what a host's machine is") {
            try $0.execute(sql: "ALTER TABLE hosts ADD COLUMN facts TEXT")
        }
        migrator.registerMigration("0003 rented pods") {
            try $0.execute(
                sql:
                    "CREATE TABLE pods (id TEXT PRIMARY KEY, host TEXT NOT NULL, seen REAL NOT NULL) STRICT, WITHOUT ROWID"
            )
        }
        migrator.registerMigration("0004 what a new generation must reckon with") {
            try $0.execute(
                sql:
                    "CREATE TABLE successions (run TEXT PRIMARY KEY, kept TEXT NOT NULL) STRICT, WITHOUT ROWID"
            )
        }
        migrator.registerMigration("0005 where the time of steps went") { database in
            for part in ["data", "forward", "backward", "exchange", "update"] {
                try database.execute(sql: "ALTER TABLE step_metrics ADD COLUMN \(part)_seconds REAL")
            }
        }
        return migrator
    }

    private static let first = """
        CREATE TABLE hosts (
            name TEXT PRIMARY KEY,
            address TEXT NOT NULL,
            instance TEXT,
            worker TEXT,
            kernels TEXT,
            cores INTEGER NOT NULL,
            memory INTEGER NOT NULL,
            last_seen REAL,
            phase TEXT NOT NULL
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE datasets (
            name TEXT NOT NULL,
            manifest TEXT NOT NULL,
            count INTEGER NOT NULL,
            classes TEXT NOT NULL,
            shape TEXT NOT NULL,
            source TEXT,
            added REAL NOT NULL,
            PRIMARY KEY (name, manifest)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE runs (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            state TEXT NOT NULL,
            record TEXT,
            file_text TEXT NOT NULL,
            cluster_file TEXT,
            created REAL NOT NULL,
            started REAL,
            finished REAL,
            attempt INTEGER NOT NULL,
            generations INTEGER NOT NULL,
            steps INTEGER NOT NULL,
            epoch INTEGER NOT NULL,
            lanes INTEGER NOT NULL,
            samples_per_second REAL,
            weights TEXT,
            message TEXT,
            parent_run TEXT REFERENCES runs (id),
            parent_checkpoint TEXT
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX runs_by_time ON runs (created, id);

        CREATE TABLE run_workers (
            run TEXT NOT NULL REFERENCES runs (id),
            rank INTEGER NOT NULL,
            host TEXT NOT NULL,
            lanes INTEGER NOT NULL,
            steps_computed INTEGER NOT NULL,
            state TEXT NOT NULL,
            PRIMARY KEY (run, rank)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE generations (
            run TEXT NOT NULL REFERENCES runs (id),
            number INTEGER NOT NULL,
            members TEXT NOT NULL,
            reason TEXT NOT NULL,
            time REAL NOT NULL,
            PRIMARY KEY (run, number)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE step_metrics (
            run TEXT NOT NULL REFERENCES runs (id),
            step INTEGER NOT NULL,
            epoch INTEGER NOT NULL,
            loss REAL,
            accuracy REAL,
            learning_rate REAL,
            samples INTEGER NOT NULL,
            seconds REAL NOT NULL,
            time REAL NOT NULL,
            PRIMARY KEY (run, step)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE epoch_metrics (
            run TEXT NOT NULL REFERENCES runs (id),
            epoch INTEGER NOT NULL,
            step INTEGER NOT NULL,
            train_loss REAL,
            train_accuracy REAL,
            val_loss REAL,
            val_accuracy REAL,
            time REAL NOT NULL,
            PRIMARY KEY (run, epoch)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE agent_cursors (
            host TEXT NOT NULL,
            run TEXT NOT NULL,
            spool TEXT NOT NULL,
            sequence INTEGER NOT NULL,
            PRIMARY KEY (host, run, spool)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE checkpoints (
            run TEXT NOT NULL REFERENCES runs (id),
            manifest TEXT NOT NULL,
            epoch INTEGER NOT NULL,
            step INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('held', 'saved', 'deleted')),
            at_home INTEGER NOT NULL,
            val_accuracy REAL,
            val_loss REAL,
            train_loss REAL,
            weights TEXT,
            size INTEGER NOT NULL,
            created REAL NOT NULL,
            pinned INTEGER NOT NULL,
            trashed_until REAL,
            PRIMARY KEY (run, manifest)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX checkpoints_by_manifest ON checkpoints (manifest);
        CREATE TRIGGER checkpoints_stay BEFORE DELETE ON checkpoints
            BEGIN SELECT RAISE(ABORT, 'a checkpoint stays in the registry when its bytes are gone'); END;

        CREATE TABLE checkpoint_copies (
            run TEXT NOT NULL,
            manifest TEXT NOT NULL,
            host TEXT NOT NULL,
            PRIMARY KEY (run, manifest, host),
            FOREIGN KEY (run, manifest) REFERENCES checkpoints (run, manifest)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE model_versions (
            name TEXT NOT NULL,
            version INTEGER NOT NULL,
            manifest TEXT NOT NULL,
            run TEXT NOT NULL,
            val_accuracy REAL,
            val_loss REAL,
            train_loss REAL,
            signature TEXT,
            created REAL NOT NULL,
            PRIMARY KEY (name, version),
            UNIQUE (name, manifest),
            FOREIGN KEY (run, manifest) REFERENCES checkpoints (run, manifest)
        ) STRICT, WITHOUT ROWID;
        CREATE TRIGGER model_versions_never_change BEFORE UPDATE ON model_versions
            BEGIN SELECT RAISE(ABORT, 'a model version never changes'); END;
        CREATE TRIGGER model_versions_stay BEFORE DELETE ON model_versions
            BEGIN SELECT RAISE(ABORT, 'a model version is never deleted'); END;

        CREATE TABLE model_aliases (
            name TEXT NOT NULL,
            alias TEXT NOT NULL,
            version INTEGER NOT NULL,
            moved REAL NOT NULL,
            PRIMARY KEY (name, alias),
            FOREIGN KEY (name, version) REFERENCES model_versions (name, version)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE releases (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            host TEXT NOT NULL,
            model TEXT NOT NULL,
            version INTEGER NOT NULL,
            manifest TEXT NOT NULL,
            state TEXT NOT NULL,
            reason TEXT NOT NULL,
            started REAL NOT NULL,
            finished REAL,
            golden_difference REAL,
            went_live INTEGER NOT NULL,
            FOREIGN KEY (model, version) REFERENCES model_versions (name, version)
        ) STRICT;
        CREATE UNIQUE INDEX one_live_release_a_host ON releases (host) WHERE state = 'live';
        CREATE UNIQUE INDEX one_release_under_way_a_host ON releases (host)
            WHERE state IN ('sending', 'verifying');

        CREATE TABLE events (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            time REAL NOT NULL,
            kind TEXT NOT NULL,
            run TEXT,
            host TEXT,
            who TEXT NOT NULL,
            message TEXT NOT NULL,
            data TEXT
        ) STRICT;
        CREATE INDEX events_by_run ON events (run, id);
        CREATE TRIGGER events_never_change BEFORE UPDATE ON events
            BEGIN SELECT RAISE(ABORT, 'an event never changes'); END;
        CREATE TRIGGER events_stay BEFORE DELETE ON events
            BEGIN SELECT RAISE(ABORT, 'an event is never deleted'); END;
        """
}
