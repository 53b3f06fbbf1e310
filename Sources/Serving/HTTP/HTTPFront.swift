internal import Basics
internal import HTTPTypes
internal import Hummingbird
internal import NIOCore
internal import Synchronization
internal import Wire

/// Speaks the Open Inference Protocol v2 and Prometheus over HTTP.
struct HTTPFront: HTTPResponder {
    typealias Context = BasicRequestContext

    /// The largest body; unit: bytes.
    static let maximumBody = 32 << 20
    /// How much of a refused body is read and thrown away, so that its sender comes to read the refusal; unit: bytes.
    static let maximumDrain = 256 << 20

    let supervisor: Supervisor
    let predictor: PredictionService
    /// What clients must show; nil = nothing.
    let token: BearerToken?

    /// Answers one request; every refusal is JSON with `error`.
    func respond(to request: Request, context: BasicRequestContext) async throws -> Response {
        let route: ServeRoute
        do {
            route = try ServeRoute(method: request.method.rawValue, path: request.uri.path)
            if route.needsToken, let token, !token.accepts(request.headers[.authorization]) {
                throw ServingError(.unauthorized, "the token is missing or wrong")
            }
        } catch let error as ServingError {
            _ = try await Self.body(request, limit: 0)
            return refusal(error)
        }
        do {
            if case .infer(let model, let version) = route { return await infer(model, version, request) }
            _ = try await Self.body(request, limit: 0)
            return try await answer(route)
        } catch let error as ServingError {
            return refusal(error)
        }
    }

    private func refusal(_ error: ServingError) -> Response {
        var response = Self.json(OpenInferenceText.error(error), status: error.httpStatus)
        if error.code == .unauthorized { response.headers[.wwwAuthenticate] = "Bearer" }
        if error.httpStatus == 503 { response.headers[.retryAfter] = "1" }
        return response
    }

    private func answer(_ route: ServeRoute) async throws -> Response {
        let table = supervisor.table
        switch route {
        case .server: return Self.json(OpenInferenceText.server)
        case .live: return Self.json("{\"live\":true}")
        case .ready:
            let isReady = table.live?.child != nil
            return Self.json("{\"ready\":\(isReady)}", status: isReady ? 200 : 503)
        case .repositoryIndex:
            return Self.json(OpenInferenceText.index(table.entries.map { ($0.version, $0.child != nil) }))
        case .modelReady(let model, let version):
            let isReady = try table.entry(model: model, version: version).child != nil
            return Self.json(
                "{\"name\":\(JSON.quoted(model)),\"ready\":\(isReady)}",
                status: isReady ? 200 : 503
            )
        case .model(let model, let version):
            let entry = try await table.child(model: model, version: version, not: nil)
            guard let signature = entry.child?.signature else {
                throw ServingError(.notReady, "\(entry.version.text) is not loaded")
            }
            return Self.json(
                OpenInferenceText.model(
                    entry.version,
                    loaded: table.entries.map(\.version),
                    signature: signature
                )
            )
        case .metrics:
            let text = supervisor.metrics.withLock { $0.text(live: table.live?.version) }
            return Self.response(Array(text.utf8), type: ServeMetrics.contentType)
        case .infer: preconditionFailure("answered before, with the body")
        }
    }

    private func infer(_ model: String, _ version: Int?, _ request: Request) async -> Response {
        let start = ContinuousClock.now
        do {
            guard let body = try await Self.body(request, limit: Self.maximumBody) else {
                throw ServingError(
                    .tooLarge,
                    "the body is larger than \(Self.maximumBody) bytes",
                    hint: "send fewer rows at a time"
                )
            }
            let headerLength = try Self.headerLength(request.headers)
            let found = try await predictor.predict(model: model, version: version) { version, signature in
                let parsed = try InferenceRequest(
                    body: body,
                    headerLength: headerLength,
                    signature: signature,
                    model: version.text
                )
                return (parsed, parsed.values, parsed.rows)
            }
            let reply = try InferenceResponse(
                found.prediction,
                to: found.request,
                version: found.version,
                classes: found.signature.classes
            )
            predictor.record(found.version, 200, since: start)
            var response = Self.response(
                reply.body,
                type: reply.headerLength == nil ? "application/json" : "application/octet-stream"
            )
            response.headers[Self.versionHeader] = "\(found.version.version)"
            if let length = reply.headerLength { response.headers[Self.lengthHeader] = "\(length)" }
            return response
        } catch {
            let refusal = error as? ServingError ?? ServingError(.failed, "the request failed: \(error)")
            let known = try? supervisor.table.entry(model: model, version: version).version
            predictor.record(known, refusal.httpStatus, since: start)
            return self.refusal(refusal)
        }
    }

    private static func headerLength(_ headers: HTTPFields) throws -> Int? {
        if let encoding = headers[.contentEncoding], encoding.lowercased() != "identity" {
            throw ServingError(
                .unsupported,
                "Content-Encoding \(JSON.quoted(encoding)) is not read here",
                hint: "send the body as it is"
            )
        }
        guard let text = headers[lengthHeader] else { return nil }
        guard let length = Int(text) else {
            throw ServingError(
                .badRequest,
                "Inference-Header-Content-Length is \(JSON.quoted(text)), not a number"
            )
        }
        return length
    }

    /// Reads a body to its end; nil when it is larger than `limit`.
    ///
    /// - Throws: when the client goes away.
    private static func body(_ request: Request, limit: Int) async throws -> [UInt8]? {
        var kept: [UInt8] = []
        var count = 0
        for try await part in request.body {
            count += part.readableBytes
            if count <= limit {
                kept += part.readableBytesView
            } else if count > maximumDrain {
                break
            }
        }
        return count <= limit ? kept : nil
    }

    private static func json(_ text: String, status: Int = 200) -> Response {
        response(Array(text.utf8), type: "application/json", status: status)
    }

    private static func response(_ bytes: [UInt8], type: String, status: Int = 200) -> Response {
        Response(
            status: HTTPResponse.Status(code: status),
            headers: [.contentType: type],
            body: ResponseBody(byteBuffer: ByteBuffer(bytes: bytes))
        )
    }

    private static let versionHeader = name("x-coord-version")
    private static let lengthHeader = name("Inference-Header-Content-Length")

    private static func name(_ text: String) -> HTTPField.Name {
        guard let name = HTTPField.Name(text) else { preconditionFailure("\(text) is no header name") }
        return name
    }
}
