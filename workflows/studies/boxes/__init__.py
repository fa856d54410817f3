"""Do the words of the class graphs sit on the object?"""
