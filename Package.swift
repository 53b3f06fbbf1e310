// swift-tools-version: 6.2
// The layers of this package, from the bottom:
//   0 C          1 Basics       2 resources      3 subjects      4 roles      5 doors
// A target depends only on lower floors. scripts/check-floors.py proves it on every CI run.

import PackageDescription

let package = Package(
    name: "coord",
    products: [
        .executable(name: "coord", targets: ["coord"]),
        .executable(name: "coord-worker", targets: ["coord-worker"]),
        .executable(name: "coord-serve", targets: ["coord-serve"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-crypto", "3.12.0"..<"5.0.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
    ],
    targets: [
        // MARK: Floor 0, C
        .systemLibrary(name: "COpenBLAS", pkgConfig: "openblas", providers: [.apt(["libopenblas-dev"])]),
        .systemLibrary(name: "CSSH", pkgConfig: "libssh", providers: [.apt(["libssh-dev"])]),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
        .target(
            name: "CKernels",
            cSettings: [.unsafeFlags(["-O3", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra"])]
        ),
        .systemLibrary(name: "CJPEG", pkgConfig: "libjpeg", providers: [.apt(["libjpeg62-turbo-dev"])]),
        .systemLibrary(name: "CPNG", pkgConfig: "libpng", providers: [.apt(["libpng-dev"])]),
        .target(
            name: "CImages",
            dependencies: ["CJPEG", "CPNG"],
            cSettings: [.unsafeFlags(["-O3", "-ffp-contract=off", "-Wall", "-Wextra"])],
            // By name, for the static programs: pkg-config tells of zlib only who asks for static libraries.
            linkerSettings: [
                .linkedLibrary("jpeg"), .linkedLibrary("png16"), .linkedLibrary("z"), .linkedLibrary("m"),
            ]
        ),
        .target(name: "CShims"),

        // MARK: Floor 1, words every module speaks
        .target(name: "Basics", dependencies: ["CShims", .crypto]),

        // MARK: Floor 2, one resource each, strangers to one another
        .target(name: "Tensors", dependencies: ["Basics", "CKernels", "COpenBLAS"]),
        .target(name: "Collectives", dependencies: ["Basics", "CShims"]),
        .target(name: "ContentStore", dependencies: ["Basics", "CZstd"]),
        .target(name: "Images", dependencies: ["Basics", "CImages"]),
        .target(name: "Wire", dependencies: ["Basics", "CShims"]),
        .target(name: "Remote", dependencies: ["Basics", "CSSH"]),
        .target(name: "ClusterFile", dependencies: ["Basics", .product(name: "Yams", package: "Yams")]),
        .target(name: "Registry", dependencies: ["Basics", .product(name: "GRDB", package: "GRDB.swift")]),

        // MARK: Floor 3, subjects
        .target(name: "Training", dependencies: ["Basics", "Tensors"]),
        .target(name: "Datasets", dependencies: ["Basics", "ContentStore", "Images"]),

        // MARK: Floor 4, roles
        .target(
            name: "Coordinator",
            dependencies: ["Basics", "ClusterFile", "ContentStore", "Datasets", "Registry", "Remote", "Wire"]
        ),
        .target(
            name: "Agent",
            dependencies: ["Basics", "CShims", "Collectives", "ContentStore", "Datasets", "Training", "Wire"]
        ),
        .target(
            name: "Serving",
            dependencies: ["Basics", "Tensors", "Training", "Wire", .hummingbird, .lifecycle]
        ),

        // MARK: Floor 5, doors
        .executableTarget(
            name: "coord",
            dependencies: [
                "Basics", "ClusterFile", "ContentStore", "Coordinator", "Datasets", "Images", "Registry",
                "Remote", "Wire",
                .arguments,
            ]
        ),
        .executableTarget(name: "coord-worker", dependencies: ["Basics", "Agent"]),
        .executableTarget(name: "coord-serve", dependencies: ["Basics", "Serving"]),
        .executableTarget(
            name: "coord-bench",
            dependencies: [
                "Basics", "Collectives", "ContentStore", "Coordinator", "Remote", "Tensors", "Training",
                "Wire",
            ],
            path: "Benchmarks/coord-bench"
        ),

        // MARK: Tests
        .target(
            name: "CoordTesting",
            dependencies: ["Basics"],
            path: "Tests/CoordTesting"
        ),
        .testTarget(name: "BasicsTests", dependencies: ["Basics", "CoordTesting"]),
        .testTarget(name: "TensorsTests", dependencies: ["Basics", "CoordTesting", "Tensors"]),
        .testTarget(
            name: "CollectivesTests",
            dependencies: ["Basics", "CShims", "Collectives", "CoordTesting"]
        ),
        .testTarget(name: "ContentStoreTests", dependencies: ["Basics", "ContentStore", "CoordTesting"]),
        .testTarget(name: "ImagesTests", dependencies: ["Basics", "CoordTesting", "Images"]),
        .testTarget(name: "WireTests", dependencies: ["Basics", "CoordTesting", "Wire"]),
        .testTarget(name: "RemoteTests", dependencies: ["Basics", "CoordTesting", "Remote"]),
        .testTarget(name: "ClusterFileTests", dependencies: ["Basics", "ClusterFile", "CoordTesting"]),
        .testTarget(
            name: "RegistryTests",
            dependencies: [
                "Basics", "CoordTesting", "Registry", .product(name: "GRDB", package: "GRDB.swift"),
            ]
        ),
        .testTarget(name: "TrainingTests", dependencies: ["Basics", "CoordTesting", "Tensors", "Training"]),
        .testTarget(
            name: "DatasetsTests",
            dependencies: ["Basics", "ContentStore", "CoordTesting", "Datasets", "Images"]
        ),
        .testTarget(
            name: "ServingTests",
            dependencies: ["Basics", "CoordTesting", "Serving", "Training", "Wire", "coord-serve"]
        ),
        .testTarget(name: "AgentTests", dependencies: ["Agent", "Basics", "CoordTesting", "Wire"]),
        .testTarget(
            name: "CoordinatorTests",
            dependencies: [
                "Basics", "ContentStore", "Coordinator", "CoordTesting", "Registry", "Remote", "Wire",
                "coord-worker",
            ]
        ),
        .testTarget(
            name: "SimulationTests",
            dependencies: ["Basics", "Collectives", "Coordinator", "CoordTesting", "Wire"]
        ),
        .testTarget(
            name: "EndToEndTests",
            dependencies: ["Basics", "CoordTesting", "coord", "coord-worker", "coord-serve"]
        ),
    ]
)

extension Target.Dependency {
    static let crypto = Target.Dependency.product(name: "Crypto", package: "swift-crypto")
    static let log = Target.Dependency.product(name: "Logging", package: "swift-log")
    static let arguments = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
    static let hummingbird = Target.Dependency.product(name: "Hummingbird", package: "hummingbird")
    static let lifecycle = Target.Dependency.product(
        name: "ServiceLifecycle",
        package: "swift-service-lifecycle"
    )
}

let targetsInC: Set = ["CImages", "CJPEG", "CKernels", "CPNG", "COpenBLAS", "CSSH", "CZstd", "CShims"]
for target in package.targets where !targetsInC.contains(target.name) {
    target.dependencies.append(.log)  // MemberImportVisibility: who logs imports Logging itself
    target.swiftSettings = [
        .swiftLanguageMode(.v6),
        .enableUpcomingFeature("ExistentialAny"),
        .enableUpcomingFeature("InternalImportsByDefault"),
        .enableUpcomingFeature("MemberImportVisibility"),
        .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
        .enableExperimentalFeature("Lifetimes"),
        .treatAllWarnings(as: .error),
    ]
}
