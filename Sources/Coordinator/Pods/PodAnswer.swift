internal import Basics

/// What a reply of the provider's REST API means.
enum PodAnswer: Equatable {
    /// What was asked for.
    case body([UInt8])
    /// This version of the API is not there: another may be.
    case otherVersion
    /// It says no.
    case refused(PodError.Code, String, hint: String?, wait: Duration?)

    /// A reply may not be larger; unit: bytes.
    static let sizeLimit = 4 << 20

    /// Reads a reply.
    ///
    /// - Parameters:
    ///   - pod: the id that was asked for; nil for a listing.
    ///   - secret: what must not be shown, should the provider repeat it.
    init(_ reply: HTTPReply, pod: String?, secret: String) {
        let problem = Problem(reply)
        let words =
            problem.map { ": \(ForeignText.line($0.words.replacing(secret, with: "[redacted]")))" } ?? ""
        guard reply.body.count <= Self.sizeLimit else {
            self = .refused(
                .nonsense,
                "RunPod's reply is larger than \(ByteCount(Self.sizeLimit))",
                hint: nil,
                wait: nil
            )
            return
        }
        switch reply.status {
        case 200: self = .body(reply.body)
        case 401:
            self = .refused(
                .keyRefused,
                "RunPod does not accept the key in \(PodAccount.keyVariable) (401)\(words)",
                hint:
                    "make one at console.runpod.io, Settings, API Keys, and put it into \(PodAccount.keyVariable)",
                wait: nil
            )
        case 403:
            self = .refused(
                .keyRefused,
                "the key in \(PodAccount.keyVariable) may not read pods (403)\(words)",
                hint: "give the key read access to pods at console.runpod.io, Settings, API Keys",
                wait: nil
            )
        case 404:
            // A listing is never missing, and a pod that is missing is told as a problem.
            guard let pod, problem != nil else {
                self = .otherVersion
                return
            }
            self = .refused(
                .gone,
                "there is no pod \(pod) in the account any more (404)\(words)",
                hint: "rent another one and write its id as `pod:`, or take the host out of the cluster file",
                wait: nil
            )
        case 405, 410, 501: self = .otherVersion
        case 429:
            let seconds = min(3600, max(1, reply.headers["retry-after"].flatMap { Int($0) } ?? 10))
            self = .refused(
                .tooMany,
                "RunPod was asked too often (429) and wants \(seconds) s of peace\(words)",
                hint: "nothing is to be done: it is asked again then",
                wait: .seconds(seconds)
            )
        case 500...:
            self = .refused(
                .unreachable,
                "RunPod's API is out of order (\(reply.status))\(words)",
                hint: "try again later; `address:` and `port:` in the cluster file do without it",
                wait: nil
            )
        case 300..<400:
            self = .refused(
                .nonsense,
                "RunPod's API answered with a redirection (\(reply.status)), which is not followed with a key",
                hint: "look at \(PodAccount.baseVariable)",
                wait: nil
            )
        default:
            self = .refused(.nonsense, "RunPod answered \(reply.status)\(words)", hint: nil, wait: nil)
        }
    }

    /// An error as RFC 9457 tells it: title, detail, and a list of particulars.
    private struct Problem {
        var words: String

        init?(_ reply: HTTPReply) {
            guard reply.status >= 400, reply.body.count <= PodAnswer.sizeLimit,
                let value = JSONValue(reply.body), case .object = value
            else { return nil }
            var parts = [value["title"], value["detail"] ?? value["message"] ?? value["error"]].compactMap {
                $0?.text
            }
            for error in value["errors"]?.array?.prefix(3) ?? [] {
                if let text = error.text ?? error["detail"]?.text ?? error["message"]?.text {
                    parts.append(text)
                }
            }
            words = parts.isEmpty ? "no reason was told" : parts.joined(separator: "; ")
        }
    }
}
