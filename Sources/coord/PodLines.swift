internal import Coordinator

/// A rented pod, as `--json` tells it.
struct PodLine: Encodable {
    var type = "pod"
    var pod: String
    var name: String
    var host: String?
    var status: String
    var pricePerHour: Double?
    var login: String?
    var findings: [PodReport.Finding]

    init(_ report: PodReport) {
        pod = report.pod
        name = report.name
        host = report.host
        status = report.status
        pricePerHour = report.pricePerHour
        login = report.login
        findings = report.findings
    }
}

extension Console {
    /// All pods with what is odd about them, as data.
    func printPods(_ survey: PodSurvey) {
        if isJSON {
            survey.reports.forEach { json(PodLine($0)) }
        } else if !survey.reports.isEmpty {
            let rows = survey.reports.map { report in
                let price = report.pricePerHour.map { "\($0)" } ?? "-"
                return [report.pod, report.host ?? "-", report.status, price, report.login ?? "-"]
            }
            table([["POD", "HOST", "STATUS", "USD/H", "LOGIN"]] + rows)
            for finding in survey.reports.flatMap(\.findings) {
                print("  \(finding.message)")
                print("    → \(finding.remedy)")
            }
        }
        survey.notes.forEach { say($0) }
    }

    /// What is odd about a pod, for people.
    func sayFindings(of report: PodReport) {
        for finding in report.findings {
            say("  \(finding.message)")
            say("    → \(finding.remedy)")
        }
    }
}
