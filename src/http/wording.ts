import { z } from "zod";

const types: Record<string, string> = {
  string: "text",
  number: "a number",
  int: "a whole number",
  boolean: "true or false",
  array: "a list",
  tuple: "a list",
  object: "an object",
  record: "an object",
};

const counted: Record<string, string> = { string: "characters", array: "items", set: "items" };

/** What is wrong, to stand after the name of a field. Undefined: as the library words it. */
const worded: z.core.$ZodErrorMap = (issue) => {
  switch (issue.code) {
    case "invalid_type":
      if (issue.input === undefined) return "is missing";
      return `must be ${types[issue.expected] ?? issue.expected}`;
    case "too_small": {
      const { origin, minimum, inclusive } = issue;
      const noun = counted[origin];
      if (noun && minimum === 1) return "must not be empty";
      if (noun) return `must have at least ${minimum} ${noun}`;
      return inclusive ? `must be at least ${minimum}` : `must be more than ${minimum}`;
    }
    case "too_big": {
      const { origin, maximum, inclusive } = issue;
      const noun = counted[origin];
      if (noun) return `must have at most ${maximum} ${noun}`;
      return inclusive ? `must be at most ${maximum}` : `must be less than ${maximum}`;
    }
    case "invalid_value": {
      const values = issue.values.map(String);
      const last = values.pop() ?? "";
      return values.length === 0 ? `must be ${last}` : `must be ${values.join(", ")} or ${last}`;
    }
    case "invalid_format":
      return "has not the form that it must have";
    case "unrecognized_keys":
      return "unknown field";
    case "invalid_union":
      return "is none of what it may be";
    default:
      return undefined;
  }
};

// In one place for everything that is checked; what a schema says itself wins.
z.config({ customError: worded });
