//! Where a function URL is reached when the services are not AWS itself.

/// The address at which `url`, the URL of a Lambda function, can be reached.
///
/// On AWS that is `url` itself. An AWS-compatible endpoint serves functions
/// below its own address instead, as the names of their hosts resolve nowhere:
/// `https://abc.lambda-url.eu-west-1.on.aws/hooks` is then reached at
/// `{endpoint_url}/_aws/lambda-url/abc/hooks`. `endpoint_url` is the value of
/// `AWS_ENDPOINT_URL`, if that is set; one within AWS (a VPC endpoint) changes
/// nothing, and neither does a `url` that is not a function URL.
pub fn function_url(url: &str, endpoint_url: Option<&str>) -> String {
    let Some(endpoint) = endpoint_url
        .map(str::trim)
        .filter(|endpoint| !endpoint.is_empty())
    else {
        return url.to_owned();
    };
    if within_aws(endpoint) {
        return url.to_owned();
    }
    let Some((_, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let Some((id, _)) = host
        .split_once(".lambda-url.")
        .filter(|(id, _)| !id.is_empty())
    else {
        return url.to_owned();
    };
    format!(
        "{}/_aws/lambda-url/{id}/{path}",
        endpoint.trim_end_matches('/')
    )
}

fn within_aws(endpoint: &str) -> bool {
    let after_scheme = endpoint
        .split_once("://")
        .map_or(endpoint, |(_, rest)| rest);
    let authority = after_scheme.split('/').next().unwrap_or(after_scheme);
    let host = authority.split(':').next().unwrap_or(authority);
    [".amazonaws.com", ".amazonaws.com.cn", ".on.aws", ".api.aws"]
        .iter()
        .any(|domain| host.ends_with(domain))
}

#[cfg(test)]
mod tests {
    use super::function_url;

    const URL: &str = "https://abc123.lambda-url.eu-west-1.on.aws/";

    #[test]
    fn on_aws_a_function_url_stays_as_it_is() {
        assert_eq!(function_url(URL, None), URL);
        assert_eq!(function_url(URL, Some("")), URL);
        assert_eq!(
            function_url(URL, Some("https://sqs.eu-west-1.amazonaws.com")),
            URL
        );
    }

    #[test]
    fn a_compatible_endpoint_serves_it_below_its_own_address() {
        let expected = "http://127.0.0.1:4566/_aws/lambda-url/abc123/";
        assert_eq!(function_url(URL, Some("http://127.0.0.1:4566")), expected);
        assert_eq!(function_url(URL, Some("http://127.0.0.1:4566/")), expected);
        assert_eq!(
            function_url(URL.trim_end_matches('/'), Some("http://127.0.0.1:4566")),
            expected
        );
    }

    #[test]
    fn the_path_below_it_is_kept() {
        let hook = format!("{URL}github/hook?x=1");
        assert_eq!(
            function_url(&hook, Some("http://localhost:4566")),
            "http://localhost:4566/_aws/lambda-url/abc123/github/hook?x=1"
        );
    }

    #[test]
    fn what_is_not_a_function_url_stays_as_it_is() {
        for url in [
            "https://example.com/",
            "http://127.0.0.1:9000/report",
            "abc",
            "",
        ] {
            assert_eq!(function_url(url, Some("http://localhost:4566")), url);
        }
    }
}
