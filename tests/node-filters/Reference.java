import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.PatternSyntaxException;

/**
 * Node filters with Java's own regular expressions, written for clarity instead of speed.
 *
 * <p>Reads one case per line: the filter and then its nodes, separated by tabs. A node is a list of
 * keys and values, separated by commas; the key "tags" can occur several times. All texts are UTF-8
 * in hexadecimal digits. Writes one line per case: 1 or 0 for each node, or "error" if Rundeck
 * would fail.
 */
class Reference {
    /** The keys that Rundeck spells in two ways. */
    static final Map<String, String> ATTRIBUTES =
            Map.of(
                    "name", "nodename",
                    "os-name", "osName",
                    "os-family", "osFamily",
                    "os-arch", "osArch",
                    "os-version", "osVersion");

    record Node(Map<String, String> attributes, List<String> tags) {}

    /** The values of each included or excluded key. */
    record Filter(Map<String, String> included, Map<String, String> excluded) {}

    public static void main(String[] arguments) throws Exception {
        var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        var output = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        for (var line = input.readLine(); line != null; line = input.readLine()) {
            output.println(evaluate(line.split("\t", -1)));
        }
        output.flush();
    }

    static String evaluate(String[] fields) {
        try {
            var filter = parse(text(fields[0]));
            var results = new StringBuilder();
            for (var field : Arrays.asList(fields).subList(1, fields.length)) {
                results.append(selects(filter, readNode(field)) ? '1' : '0');
            }
            return results.toString();
        } catch (PatternSyntaxException error) {
            return "error";
        }
    }

    static String text(String digits) {
        return new String(HexFormat.of().parseHex(digits), StandardCharsets.UTF_8);
    }

    static Node readNode(String field) {
        var texts = Arrays.stream(field.split(",", -1)).map(Reference::text).toList();
        var node = new Node(new HashMap<>(), new ArrayList<>());
        for (int i = 0; i < texts.size(); i += 2) {
            if (texts.get(i).equals("tags")) {
                node.tags().add(texts.get(i + 1));
            } else {
                node.attributes().put(texts.get(i), texts.get(i + 1));
            }
        }
        return node;
    }

    static Filter parse(String filter) {
        var parsed = new Filter(new TreeMap<>(), new TreeMap<>());
        String key = null;
        for (var word : words(filter)) {
            var value = word;
            if (key == null && word.endsWith(":")) {
                key = word.substring(0, word.length() - 1);
                continue;
            }
            if (key == null && word.contains(":")) {
                key = word.substring(0, word.indexOf(':'));
                value = word.substring(key.length() + 1);
            }
            var name = key == null ? "name" : key;
            var criteria = name.startsWith("!") ? parsed.excluded() : parsed.included();
            var plainName = name.startsWith("!") ? name.substring(1) : name;
            criteria.merge(plainName, value, (first, next) -> first + "," + next);
            key = null;
        }
        return parsed;
    }

    static List<String> words(String filter) {
        var words = new ArrayList<String>();
        int i = 0;
        while (i < filter.length()) {
            if (filter.charAt(i) <= ' ') {
                i++;
                continue;
            }
            char mark = filter.charAt(i) == '"' || filter.charAt(i) == '\'' ? filter.charAt(i) : 0;
            boolean quoted = false;
            var word = new StringBuilder();
            for (; i < filter.length() && (quoted || filter.charAt(i) > ' '); i++) {
                char c = filter.charAt(i);
                boolean doubled = i + 1 < filter.length() && filter.charAt(i + 1) == c;
                if (c != mark) {
                    word.append(c);
                } else if (quoted && doubled) {
                    word.append(c);
                    i++;
                } else {
                    quoted = !quoted;
                }
            }
            words.add(word.toString());
        }
        return words;
    }

    static boolean selects(Filter filter, Node node) {
        boolean included = matchesAll(filter.included(), node);
        boolean excluded = matchesAll(filter.excluded(), node);
        return included && (filter.excluded().isEmpty() || !excluded);
    }

    static boolean matchesAll(Map<String, String> criteria, Node node) {
        boolean all = true;
        for (var entry : criteria.entrySet()) {
            var attribute = ATTRIBUTES.getOrDefault(entry.getKey(), entry.getKey());
            boolean matches =
                    attribute.equals("tags")
                            ? matchesTags(entry.getValue(), node.tags())
                            : matchesAttribute(entry.getValue(), node.attributes().get(attribute));
            all = all && matches;
        }
        return all;
    }

    static boolean matchesAttribute(String value, String text) {
        if (text == null || text.trim().isEmpty()) {
            return false;
        }
        boolean matches = matchesText(value, text);
        return matches || Arrays.asList(value.split(",")).contains(text);
    }

    static boolean matchesTags(String value, List<String> tags) {
        if (!value.contains("+") && !value.contains(",")) {
            return hasTag(value, value, tags);
        }
        boolean any = false;
        for (var alternative : value.split(",")) {
            boolean all = !tags.isEmpty();
            for (var tag : alternative.split("\\+")) {
                all = hasTag(tag, tag.trim(), tags) && all;
            }
            any = any || all;
        }
        return any;
    }

    static boolean hasTag(String value, String plain, List<String> tags) {
        boolean found = tags.contains(plain);
        for (var tag : tags) {
            found = matchesText(value, tag) || found;
        }
        return found;
    }

    static boolean matchesText(String value, String text) {
        if (value.length() >= 2 && value.startsWith("/") && value.endsWith("/")) {
            return text.matches(value.substring(1, value.length() - 1).trim());
        }
        try {
            return text.equals(value.trim()) || text.matches(value.trim());
        } catch (PatternSyntaxException error) {
            return false;
        }
    }
}
